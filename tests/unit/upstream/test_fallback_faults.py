"""Pull fallback when upstreams, clients or R2 fail."""

import json
import random

import pytest

from registry.ports.storage import StorageError
from registry.ports.web import WebError
from registry.upstream.copies import GRACE_SECONDS
from tests.fakes.client import Answer, FakeRegistry, digest_of, with_query
from tests.fakes.machine import Reply, WebRequest
from tests.fakes.upstream import UPSTREAM, FakeUpstream, pieces
from tests.invariants import check_links
from tests.unit.upstream.support import LARGE, LAYERS, NAME, SMALL, blob, fail, get, holds_only_verified_bytes


# ------------------------------------------------------------------ faults of upstreams
def no_length(reply: Reply) -> Reply:
    """Remove the length, as chunked transfer encoding does."""
    return Reply(reply.status, {}, reply.chunks)


@pytest.mark.parametrize("data", LAYERS, ids=["small", "large", "empty"])
async def test_no_content_length(registry: FakeRegistry, upstream: FakeUpstream, data: bytes) -> None:
    """The blob is stored before it is served with a length: clients cannot detect that a body without one broke off."""
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
    """The client's download breaks, or the answer is 502; nothing is stored, and the next pull succeeds."""
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
    """An invalid manifest is answered with 502 and a message that names the upstream; nothing is stored."""
    upstream.put(NAME, "bad", content, "application/vnd.oci.image.manifest.v1+json")
    for path in ("manifests/bad", f"manifests/{digest_of(content)}"):
        answer = await get(registry, path)
        assert (answer.status, answer.codes) == (502, ["UNAVAILABLE"])
        assert "up.example sent" in answer.body.decode()
    assert registry.bucket.keys(f"{NAME}/") == []


async def test_a_manifest_of_another_digest(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """A manifest with another digest, or a truncated one, is answered with 502."""
    data, media_type = upstream.manifests[NAME, "1"]
    other = digest_of(b"other")
    upstream.manifests[NAME, other] = data, media_type
    assert (await get(registry, f"manifests/{other}")).status == 502
    upstream.quirk = lambda _, reply: Reply(reply.status, reply.headers, [data[:20]])
    assert (await get(registry, "manifests/1")).status == 502
    assert registry.bucket.keys(f"{NAME}/") == []


async def test_a_vague_content_type(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """The manifest's own media type replaces a generic Content-Type."""
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
    """A denial gives 404, another failure 502. The message names the upstream and repeats none of its text."""
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
    """An answer that never begins, and a manifest that never ends, give 504 within the timeout."""
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
    """The copy is finished after the client disconnected."""
    registry.leave_after = 1_000_000
    answer = await blob(registry, LARGE)
    assert not answer.is_whole
    registry.leave_after = None
    upstream.quirk = lambda *_: Reply(500)
    assert (await blob(registry, LARGE)).body == LARGE
    holds_only_verified_bytes(registry)


async def test_a_copy_that_would_take_too_long(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """After the client disconnected, a slow copy is given up before the runtime ends it; the next pull makes it."""
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
    """Whichever R2 call fails, the client gets the whole blob, and the bucket has only verified bytes.

    A blob of unknown length is served from the bucket, so the answer is 503, and the next pull succeeds.
    """
    upstream.quirk = lambda _, reply: reply if known else no_length(reply)
    assert (await get(registry, "manifests/nothing")).status == 404
    await registry.registry.before_first_write()
    number = calls = 0

    def fail_from(call: str, key: str) -> None:
        nonlocal calls
        if (call, key) != ("get", f"{NAME}/blobs/{digest_of(data)}"):
            calls += 1
            if number < calls <= number + 4:  # more failures than the storage retries
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
    """Manifests are served without a copy."""

    def no_writes(call: str, key: str) -> None:
        if call == "put":
            raise StorageError("broken")

    registry.bucket.fail = no_writes
    for method in ("GET", "HEAD"):
        assert (await get(registry, "manifests/1", method)).status == 200


@pytest.mark.parametrize("seed", range(30))
async def test_several_at_once(registry: FakeRegistry, upstream: FakeUpstream, seed: int) -> None:
    """Concurrent pulls of a blob, with and without a length, and a push of it all succeed; it is stored once."""
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
    """No tag is left without the manifest under its digest, and the next pull stores both."""
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
