"""Pull fallback: what other registries have is served and copied, and what they do wrong harms nobody."""

import asyncio
import json
import random
from collections.abc import Mapping
from typing import Any

import pytest

from registry.ports.storage import Attributes, StorageError
from registry.ports.web import WebError
from registry.settings import read_settings
from registry.upstream.copies import GRACE_SECONDS
from tests.fakes.client import ORIGIN, VARIABLES, Answer, FakeRegistry, digest_of, with_query
from tests.fakes.machine import Reply, WebRequest
from tests.fakes.upstream import UPSTREAM, FakeUpstream, ask_registry, pieces
from tests.images import push_image, put_manifest
from tests.invariants import check_links

SMALL = b"a small layer"
LARGE = random.Random(6).randbytes(9 * 1024 * 1024 + 1)  # a link to data
LAYERS = [SMALL, LARGE, b""]
NAME = "team/app"


def with_upstreams(*entries: Mapping[str, Any], **variables: str) -> FakeRegistry:
    """A registry with these behind it."""
    values = {**VARIABLES, "REGISTRIES_JSON": json.dumps(entries), **variables}
    settings = read_settings(values.get)
    assert len(settings.upstreams) == len(entries)
    return FakeRegistry(settings=settings)


@pytest.fixture
def upstream() -> FakeUpstream:
    """Another registry, with an image of three layers."""
    upstream = FakeUpstream()
    upstream.push(NAME, "1", LAYERS)
    return upstream


@pytest.fixture
def registry(upstream: FakeUpstream) -> FakeRegistry:
    """A registry with that one behind it."""
    registry = with_upstreams({"registry": UPSTREAM})
    registry.web.servers[UPSTREAM] = upstream
    return registry


async def get(registry: FakeRegistry, path: str, method: str = "GET", **headers: str) -> Answer:
    """A pull by an account that may only pull."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await registry.call(method, f"/v2/{NAME}/{path}", headers=sent, user=("reader", "looks-only"))


async def blob(registry: FakeRegistry, data: bytes, method: str = "GET", **headers: str) -> Answer:
    """The same for a blob."""
    return await get(registry, f"blobs/{digest_of(data)}", method, **headers)


def holds_only_verified_bytes(registry: FakeRegistry) -> None:
    """Whatever lies under a digest has it; links lead to data, and no data lies about."""
    check_links(registry)
    targets = {found.attributes.metadata.get("target") for found in registry.bucket.objects.values()}
    for key, stored in registry.bucket.objects.items():
        if key.startswith("_data/"):
            assert key.removeprefix("_data/") in targets
        elif ":" in key and "target" not in stored.attributes.metadata:
            algorithm, _, expected = key.rpartition("/")[2].partition(":")
            assert digest_of(stored.data, algorithm) == f"{algorithm}:{expected}"
        elif "target" in stored.attributes.metadata:
            data = registry.bucket.data(f"_data/{stored.attributes.metadata['target']}")
            assert digest_of(data) == key.rpartition("/")[2]
    assert not registry.bucket.uploads


# ------------------------------------------------------------------ what is there is served, and copied
async def test_an_image_is_copied_while_it_is_pulled(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """Once: then it is here, listed, and the other registry may be gone."""
    for _ in range(2):
        tagged = await get(registry, "manifests/1")
        assert tagged.body == upstream.manifests[NAME, "1"][0]
        assert tagged.headers["Docker-Content-Digest"] == digest_of(tagged.body)
        assert tagged.headers["Content-Type"] == upstream.manifests[NAME, "1"][1]
        for layer in LAYERS:
            answer = await blob(registry, layer)
            assert (answer.status, answer.body, answer.is_whole) == (200, layer, True)
            assert answer.headers["Content-Length"] == str(len(layer))
    assert len(upstream.asked("GET", "/manifests/")) == 1
    assert len(upstream.asked("GET", "/blobs/")) == len(LAYERS)
    del registry.web.servers[UPSTREAM]
    registry.restart()
    for path in ("manifests/1", f"manifests/{digest_of(tagged.body)}", *(f"blobs/{digest_of(one)}" for one in LAYERS)):
        assert (await get(registry, path)).status == 200
    assert json.loads((await get(registry, "tags/list")).body)["tags"] == ["1"]
    assert json.loads((await registry.call("GET", "/v2/_catalog")).body)["repositories"] == [NAME]
    holds_only_verified_bytes(registry)


async def test_an_index_and_its_children(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """They arrive as they are asked for; HEAD brings them too."""
    child = upstream.push(NAME, "child", [SMALL])
    index = upstream.push_index(NAME, "all", [child])
    for method in ("HEAD", "GET"):
        for path, data in (("all", index), (digest_of(index), index), (digest_of(child), child)):
            answer = await get(registry, f"manifests/{path}", method)
            assert (answer.status, answer.headers["Docker-Content-Digest"]) == (200, digest_of(data))
            assert answer.headers["Content-Length"] == str(len(data))
            assert answer.body == (data if method == "GET" else b"")
    assert len(upstream.asked("GET", "/manifests/")) == 2
    assert registry.bucket.keys(f"{NAME}/manifests/") == sorted(
        f"{NAME}/manifests/{reference}" for reference in ("all", digest_of(index), digest_of(child))
    )


async def test_unknown_there_too(registry: FakeRegistry) -> None:
    """404, as ever."""
    for path, code in ((f"blobs/{digest_of(b'x')}", "BLOB_UNKNOWN"), ("manifests/2", "MANIFEST_UNKNOWN")):
        for method in ("GET", "HEAD"):
            assert (await get(registry, path, method)).status == 404
        assert (await get(registry, path)).codes == [code]
    assert registry.bucket.keys(f"{NAME}/") == []


async def test_ours_behind_ours(upstream: FakeUpstream) -> None:
    """A second instance of this registry is another registry, redirects, tokens and all."""
    first = FakeRegistry(settings=read_settings({**VARIABLES, "BEARER_TOKENS": "true"}.get))
    image = await push_image(first, NAME, "1", [LARGE])
    entry = {"registry": ORIGIN, "username": "reader", "password_env": "READONLY_PASSWORD"}
    second = with_upstreams(entry)
    first.clock = second.clock  # one time for both
    first.restart()
    second.web.servers[ORIGIN] = lambda request: ask_registry(first, request)
    for _ in range(2):
        assert (await get(second, "manifests/1")).body == image
        assert (await blob(second, LARGE)).body == LARGE
    scopes = [url for url in second.web.asked if "/v2/token" in url]
    assert len(scopes) == 1
    assert "repository%3Ateam%2Fapp%3Apull&" in scopes[0] + "&"


# ------------------------------------------------------------------ pushes
async def test_pushes_never_ask(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """What is elsewhere is not here: it is uploaded, and a manifest without it refused."""
    manifest = upstream.manifests[NAME, "1"][0]
    head = await registry.call("HEAD", f"/v2/{NAME}/blobs/{digest_of(SMALL)}")
    assert head.status == 404
    refused = await put_manifest(registry, NAME, "1", manifest)
    assert (refused.status, refused.codes[0]) == (404, "MANIFEST_BLOB_UNKNOWN")
    mounted = await registry.call("POST", f"/v2/other/blobs/uploads/?mount={digest_of(SMALL)}&from={NAME}")
    assert mounted.status == 202
    assert upstream.requests == []


async def test_a_token_for_pushing_asks_nobody(upstream: FakeUpstream) -> None:
    """Its HEAD of a manifest is a push's, and that of a token for pulling a pull's."""
    registry = with_upstreams({"registry": UPSTREAM}, BEARER_TOKENS="true")
    registry.web.servers[UPSTREAM] = upstream
    for actions, status in (("pull,push", 404), ("pull", 200)):
        answer = await registry.call("GET", f"/v2/token?scope=repository:{NAME}:{actions}")
        headers = {"Authorization": f"Bearer {json.loads(answer.body)['token']}"}
        head = await registry.call("HEAD", f"/v2/{NAME}/manifests/1", headers=headers, user=None)
        assert head.status == status
    assert len(upstream.requests) == 1


async def test_a_pushed_tag_stays(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """Never compared with what an upstream has, not even after its name was a copy's."""
    assert (await get(registry, "manifests/1")).status == 200
    own = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
    index = "application/vnd.oci.image.index.v1+json"
    assert (await put_manifest(registry, NAME, "1", own, index)).status == 201
    upstream.push(NAME, "1", [b"newer"])
    registry.clock.now += 10_000
    assert (await get(registry, "manifests/1")).body == own
    assert len(upstream.requests) == 1


async def test_a_tag_that_is_pushed_while_it_is_fetched(upstream: FakeUpstream) -> None:
    """The copy does not replace it; whether there was a copy before, a deleted tag or nothing."""
    registry = with_upstreams({"registry": UPSTREAM, "pushed_repositories": True})
    own = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
    index = "application/vnd.oci.image.index.v1+json"
    fetched = upstream.__call__

    async def meanwhile(request: WebRequest) -> Reply:
        reply = await fetched(request)
        if request.method == "GET":
            assert (await put_manifest(registry, NAME, "1", own, index)).status == 201
        return reply

    for before in ("nothing", "a deleted tag", "a copy"):
        registry.web.servers[UPSTREAM] = upstream
        registry.side_by_side = True
        if before != "nothing":
            assert (await registry.call("DELETE", f"/v2/{NAME}/manifests/1")).status == 202
        if before == "a copy":
            assert (await get(registry, "manifests/1")).status == 200
            upstream.push(NAME, "1", [b"newer"])
            registry.clock.now += 1000
        registry.web.servers[UPSTREAM] = meanwhile
        assert (await get(registry, "manifests/1")).status == 200
        assert registry.bucket.data(f"{NAME}/manifests/1") == own
        registry.clock.now += 1000
        assert (await get(registry, "manifests/1")).body == own


# ------------------------------------------------------------------ what was pushed here is nobody else's
OWN = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.mark.parametrize("pushed", ["before there were upstreams", "since", "by another isolate", "by digest"])
async def test_no_upstream_answers_for_what_was_pushed_here(
    registry: FakeRegistry, upstream: FakeUpstream, pushed: str
) -> None:
    """A stranger may have a repository of the same name: no tag, manifest or blob comes from there, nor is it asked."""
    pusher = registry
    if pushed != "since":
        pusher = FakeRegistry(clock=registry.clock) if "before" in pushed else with_upstreams({"registry": UPSTREAM})
        pusher.clock = registry.clock
        pusher.bucket = registry.bucket
        pusher.restart()
    reference = digest_of(OWN) if pushed == "by digest" else "ours"
    assert (await put_manifest(pusher, NAME, reference, OWN, INDEX)).status == 201
    digest = digest_of(upstream.manifests[NAME, "1"][0])
    for path in ("manifests/1", f"manifests/{digest}", f"blobs/{digest_of(SMALL)}", f"blobs/{digest_of(LARGE)}"):
        for method in ("GET", "HEAD"):
            assert (await get(registry, path, method)).status == 404
    assert upstream.requests == []


async def test_copies_before_a_push(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """Stay, and are no longer compared."""
    first = (await get(registry, "manifests/1")).body
    assert (await put_manifest(registry, NAME, "ours", OWN, INDEX)).status == 201
    upstream.push(NAME, "1", [b"a stranger's"])
    registry.clock.now += 1000
    registry.restart()
    assert (await get(registry, "manifests/1")).body == first
    assert (await get(registry, "manifests/2")).status == 404
    assert len(upstream.requests) == 1


async def test_a_push_is_noted_once(registry: FakeRegistry) -> None:
    """In the register, which a collection of garbage keeps as it is; without upstreams nothing is written."""
    plain = FakeRegistry()
    assert (await put_manifest(plain, NAME, "1", OWN, INDEX)).status == 201
    assert plain.bucket.keys(f"{NAME}/_gc") == []
    for tag in ("1", "2"):
        assert (await put_manifest(registry, NAME, tag, OWN, INDEX)).status == 201
    etag = registry.bucket.objects[f"{NAME}/_gc"].etag
    registry.restart()
    assert (await put_manifest(registry, NAME, "3", OWN, INDEX)).status == 201
    assert registry.bucket.objects[f"{NAME}/_gc"].etag == etag


async def test_a_push_after_a_sweep_that_broke_off(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """It is noted, so that another isolate asks nobody even when all that was pushed is deleted again."""
    metadata = {"phase": "sweep", "run": "r", "lease": str(registry.clock.now - 1_000), "nonce": "n"}
    registry.bucket.seed(f"{NAME}/_gc", b"n", Attributes(metadata=metadata), None)
    assert (await put_manifest(registry, NAME, "ours", OWN, INDEX)).status == 201
    assert (await registry.call("DELETE", f"/v2/{NAME}/manifests/{digest_of(OWN)}")).status == 202
    registry.restart()
    assert (await get(registry, "manifests/1")).status == 404
    assert upstream.requests == []


async def test_an_upstream_for_everything_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    """At the start, and only of one without prefix and include."""
    for entry in ({"registry": UPSTREAM}, {"registry": UPSTREAM, "exclude": ["a"]}):
        with_upstreams(entry)
        assert json.loads(capsys.readouterr().out)["event"] == "upstream-without-limits"
    with_upstreams({"registry": UPSTREAM, "prefix": "hub"}, {"registry": UPSTREAM, "include": ["a/**"]})
    assert capsys.readouterr().out == ""


# ------------------------------------------------------------------ tags move
async def test_a_tag_that_moves_is_seen(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """After `revalidate`: with HEAD, and a GET only when it has moved. Digests are never compared."""
    old = (await get(registry, "manifests/1")).body
    new = upstream.push(NAME, "1", [b"newer"])
    registry.clock.now += 290
    assert (await get(registry, "manifests/1")).body == old
    assert len(upstream.requests) == 1
    registry.clock.now += 10
    for _ in range(3):
        assert (await get(registry, "manifests/1")).body == new
    assert (await get(registry, f"manifests/{digest_of(old)}")).body == old
    assert [one.method for one in upstream.requests] == ["GET", "HEAD", "GET"]
    for _ in range(3):
        registry.clock.now += 301
        assert (await get(registry, "manifests/1", "HEAD")).headers["Docker-Content-Digest"] == digest_of(new)
    assert [one.method for one in upstream.requests] == ["GET", "HEAD", "GET", "HEAD", "HEAD", "HEAD"]


async def test_an_upstream_whose_head_says_no_digest(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """Then the manifest itself is compared, and not written again."""
    upstream.quirk = lambda _, reply: Reply(reply.status, {"content-type": reply.headers["content-type"]}, reply.chunks)
    assert (await get(registry, "manifests/1")).status == 200
    registry.bucket.reset()
    for _ in range(3):
        registry.clock.now += 301
        assert (await get(registry, "manifests/1")).status == 200
    assert len(upstream.asked("GET", "/manifests/")) == 4
    assert registry.bucket.usage.class_a == 0


@pytest.mark.parametrize("failure", ["gone", "500", "404", "401", "silent"])
async def test_stale_copies_are_served(registry: FakeRegistry, upstream: FakeUpstream, failure: str) -> None:
    """When the upstream is down, or has lost it; soon again, and not after every pull."""
    old = (await get(registry, "manifests/1")).body
    registry.clock.now += 301
    fail(registry, upstream, failure)
    before = registry.clock.now
    for _ in range(3):
        assert (await get(registry, "manifests/1")).body == old
    assert registry.clock.now - before < 10
    assert len(registry.web.requests) == 2
    new = upstream.push(NAME, "1", [b"newer"])
    upstream.quirk = lambda _, reply: reply
    registry.web.servers[UPSTREAM] = upstream
    registry.clock.now += 30
    assert (await get(registry, "manifests/1")).body == new


@pytest.mark.parametrize(
    ("failure", "status"), [("gone", 502), ("500", 502), ("404", 404), ("401", 404), ("silent", 504)]
)
async def test_stale_copies_are_not_served(upstream: FakeUpstream, failure: str, status: int) -> None:
    """With `serve_stale` false; by its digest the manifest is there."""
    registry = with_upstreams({"registry": UPSTREAM, "serve_stale": False})
    registry.web.servers[UPSTREAM] = upstream
    old = (await get(registry, "manifests/1")).body
    registry.clock.now += 301
    fail(registry, upstream, failure)
    for method in ("GET", "HEAD"):
        assert (await get(registry, "manifests/1", method)).status == status
        registry.clock.now += 30
    assert (await get(registry, f"manifests/{digest_of(old)}")).body == old


def fail(registry: FakeRegistry, upstream: FakeUpstream, failure: str) -> None:
    """Make the upstream fail."""

    async def silent(request: WebRequest) -> Reply:
        await registry.clock.sleep(3600)
        raise AssertionError

    if failure == "gone":
        del registry.web.servers[UPSTREAM]
    elif failure == "silent":
        registry.web.servers[UPSTREAM] = silent
    else:
        upstream.quirk = lambda *_: Reply(int(failure), {"www-authenticate": "Negotiate"}, [b"secret"])


# ------------------------------------------------------------------ ranges, conditions, HEAD
async def test_parts_of_what_is_not_copied(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """Passed on from the upstream; the next whole pull copies."""
    size = len(LARGE)
    for asked, first, last in (("0-99", 0, 99), (f"{size - 5}-", size - 5, size - 1), ("-7", size - 7, size - 1)):
        answer = await blob(registry, LARGE, range=f"bytes={asked}")
        assert (answer.status, answer.body) == (206, LARGE[first : last + 1])
        assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{size}"
        assert answer.headers["Content-Length"] == str(last - first + 1)
    assert (await blob(registry, LARGE, range=f"bytes={size}-")).status == 416
    assert registry.bucket.keys(f"{NAME}/blobs/") == []
    several = await blob(registry, LARGE, range="bytes=0-1,4-5")
    assert (several.status, several.body) == (200, LARGE)
    assert (await blob(registry, LARGE, range="bytes=0-0", if_range='"other"')).status == 200
    assert len(upstream.asked("GET", "/blobs/")) == 4


async def test_an_upstream_without_ranges(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """The answer is the whole blob, which a client must expect, and it is copied."""

    def no_ranges(request: WebRequest, reply: Reply) -> Reply:
        return Reply(200, {"content-length": str(len(LARGE))}, pieces(LARGE)) if reply.status == 206 else reply

    upstream.quirk = no_ranges
    answer = await blob(registry, LARGE, range="bytes=5-9")
    assert (answer.status, answer.body) == (200, LARGE)
    answer = await blob(registry, LARGE, range="bytes=5-9")
    assert (answer.status, answer.body) == (206, LARGE[5:10])


async def test_a_part_that_is_another_one(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """It is not passed on."""

    def shifted(request: WebRequest, reply: Reply) -> Reply:
        headers = {**reply.headers, "content-range": f"bytes 6-10/{len(LARGE)}"}
        return Reply(206, headers, reply.chunks) if reply.status == 206 else reply

    upstream.quirk = shifted
    assert (await blob(registry, LARGE, range="bytes=5-9")).body == LARGE


async def test_head_and_conditions(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """HEAD has the size and copies nothing; who has the blob already gets no bytes."""
    head = await blob(registry, LARGE, "HEAD")
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(LARGE)))
    for method in ("GET", "HEAD"):
        assert (await blob(registry, LARGE, method, if_none_match=f'"{digest_of(LARGE)}"')).status == 304
    assert upstream.asked("GET", "/") == []
    assert registry.bucket.keys(f"{NAME}/") == []


# ------------------------------------------------------------------ what upstreams do wrong
def no_length(reply: Reply) -> Reply:
    """Chunked transfer encoding."""
    return Reply(reply.status, {}, reply.chunks)


@pytest.mark.parametrize("data", LAYERS, ids=["small", "large", "empty"])
async def test_no_content_length(registry: FakeRegistry, upstream: FakeUpstream, data: bytes) -> None:
    """The blob goes through the part engine, and out with a length: a body without one cannot be seen to break."""
    upstream.quirk = lambda _, reply: no_length(reply)
    answer = await blob(registry, data)
    assert (answer.status, answer.body, answer.is_whole) == (200, data, True)
    assert answer.headers["Content-Length"] == str(len(data))
    upstream.quirk = lambda *_: Reply(500)
    assert (await blob(registry, data)).body == data
    assert registry.bucket.keys(f"{NAME}/uploads/") == []
    holds_only_verified_bytes(registry)


@pytest.mark.parametrize("known", [True, False], ids=["with a length", "without"])
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("wrong", ["wrong bytes", "truncated", "dropped", "silent", "too short a length"])
async def test_a_body_that_is_not_the_blob(
    registry: FakeRegistry, upstream: FakeUpstream, known: bool, data: bytes, wrong: str
) -> None:
    """The client sees its download break, or 502, never a whole one; nothing is stored; the next pull is right."""
    if (wrong, known) == ("too short a length", False):
        return
    good = upstream.quirk

    def bad(request: WebRequest, reply: Reply) -> Reply:
        headers = dict(reply.headers) if known else {}
        half = data[: len(data) // 2]
        match wrong:
            case "wrong bytes":
                return Reply(200, headers, pieces(data[:-1] + b"!"))
            case "truncated":
                return Reply(200, headers, pieces(half))
            case "dropped":
                return Reply(200, headers, [*pieces(half), WebError("reset")])
            case "silent":
                return Reply(200, headers, [*pieces(half), lambda: registry.clock.sleep(86_400), *pieces(data)])
        return Reply(200, {"content-length": str(len(half))}, pieces(half))

    upstream.quirk = bad
    before = registry.clock.now
    answer = await blob(registry, data)
    if known:
        assert not answer.is_whole
        assert len(answer.body) < len(data)
    else:
        assert (answer.status, answer.codes) == (502, ["UNAVAILABLE"])
        assert "up.example " in answer.body.decode()
    assert registry.clock.now - before < 120
    assert registry.bucket.keys(f"{NAME}/") == []
    assert registry.bucket.keys("_") == ["_registry/format", "_registry/session-secret"]
    assert not registry.bucket.uploads
    upstream.quirk = good
    assert (await blob(registry, data)).body == data
    holds_only_verified_bytes(registry)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"schemaVersion": 2}', b" " * (4 * 1024 * 1024 + 1)])
async def test_manifests_that_are_none(registry: FakeRegistry, upstream: FakeUpstream, content: bytes) -> None:
    """502 that names the upstream and why; nothing is stored."""
    upstream.put(NAME, "bad", content, "application/vnd.oci.image.manifest.v1+json")
    for path in ("manifests/bad", f"manifests/{digest_of(content)}"):
        answer = await get(registry, path)
        assert (answer.status, answer.codes) == (502, ["UNAVAILABLE"])
        assert "up.example sent" in answer.body.decode()
    assert registry.bucket.keys(f"{NAME}/") == []


async def test_a_manifest_of_another_digest(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """502; also when it is cut short."""
    data, media_type = upstream.manifests[NAME, "1"]
    other = digest_of(b"other")
    upstream.manifests[NAME, other] = data, media_type
    assert (await get(registry, f"manifests/{other}")).status == 502
    upstream.quirk = lambda _, reply: Reply(reply.status, reply.headers, [data[:20]])
    assert (await get(registry, "manifests/1")).status == 502
    assert registry.bucket.keys(f"{NAME}/") == []


async def test_a_vague_content_type(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """The manifest says itself what it is."""
    data, media_type = upstream.manifests[NAME, "1"]
    upstream.quirk = lambda _, reply: Reply(200, {**reply.headers, "content-type": "application/json"}, [data])
    assert (await get(registry, "manifests/1")).headers["Content-Type"] == media_type


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (Reply(500, {}, [b"a stack trace"]), 502),
        (Reply(429, {"retry-after": "17"}, [b"slow down"]), 502),
        (Reply(403, {}, [b"go away"]), 404),
        (Reply(401, {}, [b"go away"]), 404),
        (Reply(302, {}, [b"no location"]), 502),
        (Reply(307, {"location": "http://insecure.example/x"}), 502),
        (Reply(307, {"location": "http://["}), 502),
        (Reply(307, {"location": "https://nobody.example/x"}), 502),
        (Reply(307, {"location": "/loop"}), 502),
        (Reply(206, {}, [SMALL]), 502),
    ],
)
async def test_other_answers(
    registry: FakeRegistry, upstream: FakeUpstream, reply: Reply, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """404 when it may be there but not for us, else 502: with which upstream and why, and never its own words."""
    upstream.quirk = lambda *_: reply
    for path in ("manifests/1", f"blobs/{digest_of(SMALL)}"):
        answer = await get(registry, path)
        assert answer.status == status
        (error,) = json.loads(answer.body)["errors"]
        assert "up.example" in error["message"]
        for chunk in reply.chunks:
            assert isinstance(chunk, bytes)
            assert chunk.decode() not in error["message"] + capsys.readouterr().out
        assert answer.headers.get("Retry-After") == reply.headers.get("retry-after")


async def test_slow_answers(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """504 within the limit: for who never begins, and for a manifest that never ends."""
    fail(registry, upstream, "silent")
    for path in ("manifests/1", f"blobs/{digest_of(SMALL)}"):
        before = registry.clock.now
        answer = await get(registry, path)
        assert (answer.status, answer.codes) == (504, ["UNAVAILABLE"])
        assert "up.example did not answer within 30 seconds" in answer.body.decode()
        assert registry.clock.now - before < 40
    registry.web.servers[UPSTREAM] = upstream
    upstream.quirk = lambda _, reply: Reply(200, reply.headers, [lambda: registry.clock.sleep(3600)])
    assert (await get(registry, "manifests/1")).status == 504


# ------------------------------------------------------------------ clients, R2, and several at once
async def test_a_client_that_goes_away(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """The copy is finished without it."""
    registry.leave_after = 1_000_000
    answer = await blob(registry, LARGE)
    assert not answer.is_whole
    registry.leave_after = None
    upstream.quirk = lambda *_: Reply(500)
    assert (await blob(registry, LARGE)).body == LARGE
    holds_only_verified_bytes(registry)


async def test_a_copy_that_would_take_too_long(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """Without its client it is dropped before the runtime ends it, cleanly, and made by the next pull."""
    slow = [one for piece in pieces(LARGE) for one in (piece, lambda: registry.clock.sleep(1.0))]
    upstream.quirk = lambda _, reply: Reply(200, reply.headers, slow)
    registry.leave_after = 1_000_000
    before = registry.clock.now
    assert not (await blob(registry, LARGE)).is_whole
    assert registry.clock.now - before < 12 + GRACE_SECONDS + 6
    registry.leave_after = None
    assert registry.bucket.keys(f"{NAME}/") == []
    assert registry.bucket.keys("_data") == []
    upstream.quirk = lambda _, reply: reply
    assert (await blob(registry, LARGE)).body == LARGE
    holds_only_verified_bytes(registry)


@pytest.mark.parametrize("known", [True, False], ids=["with a length", "without"])
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
async def test_storage_that_fails(registry: FakeRegistry, upstream: FakeUpstream, known: bool, data: bytes) -> None:
    """Whichever call it is: the client has the whole blob, and the bucket only verified bytes.

    What has no length is served from the bucket, so then it is 503, and right the next time.
    """
    upstream.quirk = lambda _, reply: reply if known else no_length(reply)
    assert (await get(registry, "manifests/nothing")).status == 404
    await registry.registry.before_first_write()
    number = calls = 0

    def fail_from(call: str, key: str) -> None:
        nonlocal calls
        if (call, key) != ("get", f"{NAME}/blobs/{digest_of(data)}"):
            calls += 1
            if number < calls <= number + 4:  # more often than it is tried again
                raise StorageError("broken")

    while True:
        calls = 0
        registry.bucket.fail = fail_from
        answer = await blob(registry, data)
        registry.bucket.fail = lambda *_: None
        if known or answer.status == 200:
            assert (answer.status, answer.body, answer.is_whole) == (200, data, True)
        else:
            assert answer.status == 503
            registry.clock.now += 1
            assert (await blob(registry, data)).body == data
        if calls <= number:
            break
        number += 1
        check_links(registry)
        registry.bucket.objects = {
            key: one for key, one in registry.bucket.objects.items() if key.startswith("_registry/")
        }
    assert number > 0


async def test_manifests_when_storage_fails(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """They are served, though not copied."""

    def no_writes(call: str, key: str) -> None:
        if call == "put":
            raise StorageError("broken")

    registry.bucket.fail = no_writes
    for method in ("GET", "HEAD"):
        assert (await get(registry, "manifests/1", method)).status == 200


@pytest.mark.parametrize("seed", range(30))
async def test_several_at_once(registry: FakeRegistry, upstream: FakeUpstream, seed: int) -> None:
    """Pulls of the same, with and without a length, and a push of it: all end well, and the blob is there once."""
    turns = random.Random(seed)
    upstream.quirk = lambda _, reply: reply if turns.random() < 0.5 else no_length(reply)
    data = [SMALL, LARGE][seed % 2]

    async def push() -> Answer:
        started = await registry.call("POST", f"/v2/{NAME}/blobs/uploads/")
        return await registry.call("PUT", with_query(started.location, digest=digest_of(data)), data)

    answers = await registry.at_once(
        seed, push(), *(blob(registry, data) for _ in range(3)), *(get(registry, "manifests/1") for _ in range(3))
    )
    assert [answer.status for answer in answers] == [201] + [200] * 6
    assert [answer.body for answer in answers[1:4]] == [data] * 3
    holds_only_verified_bytes(registry)
    registry.web.servers.clear()
    registry.clock.now += 1
    assert (await blob(registry, data)).body == data
    assert (await get(registry, "manifests/1")).status == 200


@pytest.mark.parametrize("seed", range(60))
async def test_a_manifest_that_is_copied_and_deleted_at_once(
    registry: FakeRegistry, upstream: FakeUpstream, seed: int
) -> None:
    """A tag never stays without its digest, and the next pull brings it back."""
    data = upstream.manifests[NAME, "1"][0]
    if seed % 2:
        await get(registry, f"manifests/{digest_of(data)}")
        registry.clock.now += 1000
    pulled, deleted = await registry.at_once(
        seed, get(registry, "manifests/1"), registry.call("DELETE", f"/v2/{NAME}/manifests/{digest_of(data)}")
    )
    assert (pulled.status, pulled.body) == (200, data)
    assert deleted.status in (202, 404)
    objects = registry.bucket.objects
    tag, digest = (objects.get(f"{NAME}/manifests/{reference}") for reference in ("1", digest_of(data)))
    if tag is not None and tag.data:
        assert digest is not None
        assert digest.data == data
    registry.clock.now += 1000
    assert (await get(registry, "manifests/1")).body == data


# ------------------------------------------------------------------ which upstream
async def test_order_and_names(upstream: FakeUpstream) -> None:
    """In order; `prefix` is cut off, `include` and `exclude` are of the upstream's own names."""
    other = FakeUpstream()
    other.push("library/alpine", "1", [b"hub"])
    other.push("secret/app", "1", [b"secret"])
    registry = with_upstreams(
        {"registry": UPSTREAM, "include": ["team/**"]},
        {"registry": "https://index.docker.io/", "prefix": "hub", "exclude": ["secret/**"]},
    )
    registry.web.servers[UPSTREAM] = upstream
    registry.web.servers["https://registry-1.docker.io"] = other
    for name, status in (
        ("team/app", 200),
        ("hub/alpine", 200),
        ("hub/library/alpine", 200),
        ("hub/secret/app", 404),
        ("library/alpine", 404),
        ("hub", 404),
        ("hubs/alpine", 404),
    ):
        assert (await registry.call("GET", f"/v2/{name}/manifests/1")).status == status
    assert upstream.asked("GET", "") == ["/v2/team/app/manifests/1"]
    assert other.asked("GET", "") == ["/v2/library/alpine/manifests/1"] * 2
    names = json.loads((await registry.call("GET", "/v2/_catalog")).body)["repositories"]
    assert sorted(names) == ["hub/alpine", "hub/library/alpine", "team/app"]


async def test_a_tag_is_not_looked_for_behind_an_upstream_that_fails(upstream: FakeUpstream) -> None:
    """The next one may have something else of that name. A digest is the same everywhere."""
    registry = with_upstreams({"registry": "https://down.example"}, {"registry": UPSTREAM})
    registry.web.servers[UPSTREAM] = upstream
    manifest = upstream.manifests[NAME, "1"][0]
    assert (await get(registry, "manifests/1")).status == 502
    assert (await get(registry, f"manifests/{digest_of(manifest)}")).body == manifest
    assert (await blob(registry, SMALL)).body == SMALL

    async def empty(request: WebRequest) -> Reply:
        return Reply(404)

    registry.web.servers["https://down.example"] = empty
    assert (await get(registry, "manifests/1")).body == manifest


async def test_nobody_else_is_called(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """What lies here is asked for nowhere, and neither is what cannot be there."""
    await registry.push_blob(NAME, SMALL)
    assert (await blob(registry, SMALL)).status == 200
    assert (await get(registry, "tags/list")).status == 404
    assert (await get(registry, "manifests/not..a/tag")).status == 404
    assert upstream.requests == []


def test_the_catalogue_of_a_stranger() -> None:
    """Who may not pull here pulls nothing from elsewhere."""
    registry = with_upstreams({"registry": UPSTREAM})
    for user in (None, ("hello", "wrong")):
        answer = asyncio.run(registry.call("GET", f"/v2/{NAME}/manifests/1", user=user))
        assert answer.status == 401
    assert registry.web.requests == []
