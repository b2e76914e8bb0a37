"""Tests of `registry-push proxy`: clients that send a layer in one request push through a small request limit."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from registry_push.client import new_http
from registry_push.credentials import Credentials
from registry_push.failures import Misused
from registry_push.proxy import Proxy
from registry_push.proxy_guard import Guard
from registry_push.references import Registry
from registry_push.retries import Retries
from registry_push.sessions import ChunkSizes
from registry_push.token_servers import TokenServers
from tests.clients.images import KIB, noise
from tests.fakes.client import FakeRegistry, basic, digest_of, with_query
from tests.images import MANIFEST
from tests.push.harness import CREDENTIALS, FakeEdge

UPLOADS = "/v2/team/app/blobs/uploads/"
LIMIT = 16 * KIB
SEEDS = 100


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep chunks in a folder of the test, and check that none is left there."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield
    assert list(tmp_path.iterdir()) == []


def new_proxy(
    edge: httpx.AsyncBaseTransport,
    credentials: Credentials | None = None,
    chunk_size: int | None = LIMIT,
    listen: str = "127.0.0.1",
) -> Proxy:
    """A proxy in front of the edge."""
    return Proxy(
        http=new_http(edge),
        guard=Guard(listen),
        token_servers=TokenServers(Registry("https", "registry.example")),
        credentials=credentials,
        sizes=ChunkSizes(chunk_size),
        retries=Retries(30, edge.registry.clock.sleep if isinstance(edge, FakeEdge) else asyncio.sleep),
        say=lambda text: None,
        wire=lambda text: None,
    )


def client_of(proxy: Proxy, *, user: tuple[str, str] | None = ("hello", "world")) -> httpx.AsyncClient:
    """A client of the proxy."""
    headers = {} if user is None else {"Authorization": basic(*user)}
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=proxy),
        base_url="http://localhost:5000",
        headers=headers,
    )


async def pieces(content: bytes, size: int = 5000) -> AsyncIterator[bytes]:
    """A body without a length."""
    for at in range(0, len(content), size):
        yield content[at : at + size]


async def like_docker(client: httpx.AsyncClient, content: bytes) -> None:
    """POST, one PATCH of unknown length, PUT."""
    begun = await client.post(UPLOADS)
    assert begun.status_code == 202, begun.text
    sent = await client.patch(begun.headers["location"], content=pieces(content))
    assert sent.status_code == 202, sent.text
    assert sent.headers["range"] == f"0-{max(0, len(content) - 1)}"
    assert sent.headers["docker-upload-uuid"]
    done = await client.put(with_query(sent.headers["location"], digest=digest_of(content)))
    assert done.status_code == 201, done.text
    assert done.headers["docker-content-digest"] == digest_of(content)


async def like_containerd(client: httpx.AsyncClient, content: bytes) -> None:
    """POST, PUT with everything."""
    begun = await client.post(UPLOADS)
    done = await client.put(with_query(begun.headers["location"], digest=digest_of(content)), content=content)
    assert done.status_code == 201, done.text


async def at_once(client: httpx.AsyncClient, content: bytes) -> None:
    """POST with everything."""
    done = await client.post(UPLOADS, params={"digest": digest_of(content)}, content=content)
    assert done.status_code == 201, done.text


async def in_chunks(client: httpx.AsyncClient, content: bytes) -> None:
    """As regctl: chunks with Content-Range, the last with the PUT."""
    location = (await client.post(UPLOADS)).headers["location"]
    step = 20 * KIB
    stops = range(step, len(content), step)
    for stop in stops:
        headers = {"Content-Range": f"{stop - step}-{stop - 1}"}
        sent = await client.patch(location, content=content[stop - step : stop], headers=headers)
        assert sent.status_code == 202, sent.text
        location = sent.headers["location"]
    last = content[len(stops) * step :]
    headers = {"Content-Range": f"{len(content) - len(last)}-{len(content) - 1}"} if last else {}
    done = await client.put(with_query(location, digest=digest_of(content)), content=last, headers=headers)
    assert done.status_code == 201, done.text


PUSHES = [like_docker, like_containerd, at_once, in_chunks]
Push = Callable[[httpx.AsyncClient, bytes], object]


@pytest.mark.parametrize("size", [0, 1, LIMIT - 1, LIMIT, LIMIT + 1, 5 * LIMIT + 7])
@pytest.mark.parametrize("push", PUSHES)
async def test_pushes(push: Callable[..., AsyncIterator[None]], size: int) -> None:
    """Nothing larger than the limit reaches the registry; the blob pulls; nothing is left on the disk."""
    edge = FakeEdge(limit=LIMIT)
    async with client_of(new_proxy(edge)) as client:
        content = noise("proxy", size)
        await push(client, content)  # type: ignore[misc]
        pulled = await client.get(f"/v2/team/app/blobs/{digest_of(content)}")
        assert pulled.content == content
        asked = await client.head(f"/v2/team/app/blobs/{digest_of(content)}")
        assert (asked.status_code, asked.headers["content-length"]) == (200, str(size))
    assert max(edge.bodies, default=0) <= LIMIT


@pytest.mark.parametrize("push", PUSHES)
async def test_an_unknown_limit(push: Callable[..., AsyncIterator[None]]) -> None:
    """After a 413 the proxy sends smaller chunks."""
    edge = FakeEdge(limit=LIMIT)
    proxy = new_proxy(edge, chunk_size=None)
    proxy.sizes._step = KIB  # noqa: SLF001 - the registry's 8 MiB would take long here
    proxy.sizes._learnt = True  # noqa: SLF001
    async with client_of(proxy) as client:
        content = noise("unknown", 3 * LIMIT)
        await push(client, content)  # type: ignore[misc]
        assert (await client.get(f"/v2/team/app/blobs/{digest_of(content)}")).content == content


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_bad_connections(seed: int) -> None:
    """Faults between the proxy and the registry do not fail the client's push."""
    randomness = random.Random(seed)
    edge = FakeEdge(FakeRegistry(seed=seed), limit=LIMIT)
    async with client_of(new_proxy(edge)) as client:
        push = randomness.choice(PUSHES)
        content = noise(f"{seed}", randomness.randrange(6 * LIMIT))
        edge.trouble, edge.troubles = randomness, 15
        await push(client, content)
        edge.troubles = 0
        assert (await client.get(f"/v2/team/app/blobs/{digest_of(content)}")).content == content


async def test_a_chunk_out_of_order() -> None:
    """The client gets 416 with the session's offset and location, as from the registry."""
    async with client_of(new_proxy(FakeEdge())) as client:
        location = (await client.post(UPLOADS)).headers["location"]
        sent = await client.patch(location, content=b"0123456789")
        wrong = await client.patch(sent.headers["location"], content=b"x", headers={"Content-Range": "20-20"})
        assert (wrong.status_code, wrong.headers["range"]) == (416, "0-9")
        assert wrong.headers["location"].startswith(UPLOADS)


async def test_an_unknown_session() -> None:
    """The client gets the registry's own 404."""
    async with client_of(new_proxy(FakeEdge())) as client:
        answer = await client.patch(f"{UPLOADS}nonsense", content=b"x")
        assert answer.status_code == 404
        assert answer.json()["errors"][0]["code"] == "BLOB_UPLOAD_UNKNOWN"


async def test_wrong_digest() -> None:
    """The registry's error reaches the client."""
    async with client_of(new_proxy(FakeEdge())) as client:
        location = (await client.post(UPLOADS)).headers["location"]
        answer = await client.put(with_query(location, digest=digest_of(b"other")), content=b"bytes" * 10_000)
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["code"] == "DIGEST_INVALID"


async def test_a_proxy_that_was_restarted() -> None:
    """A restarted proxy asks the registry for the offset of an unknown session."""
    edge = FakeEdge(limit=LIMIT)
    content = noise("restart", 3 * LIMIT)
    async with client_of(new_proxy(edge)) as client:
        location = (await client.post(UPLOADS)).headers["location"]
        sent = await client.patch(location, content=content[:LIMIT])
    async with client_of(new_proxy(edge)) as client:
        sent = await client.patch(sent.headers["location"], content=content[LIMIT:])
        assert sent.headers["range"] == f"0-{len(content) - 1}"
        done = await client.put(with_query(sent.headers["location"], digest=digest_of(content)))
        assert done.status_code == 201


async def test_manifests_and_lists_pass() -> None:
    """Other requests than uploads pass unchanged, with all headers; links lead back to the proxy."""
    async with client_of(new_proxy(FakeEdge())) as client:
        manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": None, "layers": []}).encode()
        await like_docker(client, b"{}")
        config = {"mediaType": "application/json", "digest": digest_of(b"{}"), "size": 2}
        manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []}).encode()
        for tag in ("1", "2"):
            put = await client.put(
                f"/v2/team/app/manifests/{tag}", content=manifest, headers={"Content-Type": MANIFEST}
            )
            assert put.status_code == 201, put.text
            assert put.headers["location"].startswith("/v2/team/app/manifests/")
        got = await client.get("/v2/team/app/manifests/1", headers={"Accept": MANIFEST})
        assert (got.content, got.headers["content-type"]) == (manifest, MANIFEST)
        tags = await client.get("/v2/team/app/tags/list?n=1")
        assert tags.json()["tags"] == ["1"]
        assert tags.headers["link"].startswith("</v2/team/app/tags/list?")
        part = await client.get(f"/v2/team/app/blobs/{digest_of(b'{}')}", headers={"Range": "bytes=1-"})
        assert (part.status_code, part.content) == (206, b"}")
        assert (await client.delete("/v2/team/app/manifests/2")).status_code == 202


async def test_credentials_are_the_clients() -> None:
    """By default the proxy adds no credentials: a client without any gets 401."""
    async with client_of(new_proxy(FakeEdge()), user=None) as client:
        answer = await client.get("/v2/")
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic")
        assert (await client.post(UPLOADS)).status_code == 401
        assert (await client.patch(f"{UPLOADS}x", content=b"x")).status_code == 401


async def test_credentials_of_this_machine() -> None:
    """With --log-in a client needs no credentials; a client's own credentials take precedence."""
    proxy = new_proxy(FakeEdge(limit=LIMIT), CREDENTIALS)
    async with client_of(proxy, user=None) as client:
        assert (await client.get("/v2/")).status_code == 200
        await like_docker(client, noise("x", 3 * LIMIT))
    async with client_of(proxy, user=("hello", "wrong")) as client:
        assert (await client.get("/v2/")).status_code == 401


async def test_no_web_page_uses_the_credentials() -> None:
    """A request with an Origin, as browsers send it, is refused."""
    async with client_of(new_proxy(FakeEdge(), CREDENTIALS), user=None) as client:
        answer = await client.post(UPLOADS, headers={"Origin": "https://evil.example"})
        assert answer.status_code == 403


async def test_credentials_stay_on_this_machine() -> None:
    """With this machine's credentials the proxy refuses to listen on a non-loopback address."""
    with pytest.raises(Misused, match="could push with your credentials"):
        await new_proxy(FakeEdge(), CREDENTIALS, listen="0.0.0.0").serve(0)  # noqa: S104 - refused


async def test_an_unreachable_registry() -> None:
    """The client gets 502 with the reason."""
    edge = FakeEdge()
    edge.script = lambda: "unheard"
    async with client_of(new_proxy(edge)) as client:
        answer = await client.get("/v2/")
        assert answer.status_code == 502
        assert "the answer was lost" in answer.json()["errors"][0]["message"]


async def test_a_large_body_that_is_no_blob() -> None:
    """A manifest above the limit is refused before all of it is in memory."""
    async with client_of(new_proxy(FakeEdge())) as client:
        answer = await client.put("/v2/team/app/manifests/1", content=pieces(b"x" * 5_000_000, 100_000))
        assert answer.status_code == 400
