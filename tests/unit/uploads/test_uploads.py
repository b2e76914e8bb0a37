"""Blob uploads: end-4, 5, 6, 13, 14."""

import random
from collections.abc import Iterator

import pytest

from registry.ports.storage import StorageError
from registry.uploads.parts import LARGE_PART, SMALL_PART
from tests.fakes.client import Answer, FakeRegistry, digest_of, with_query

MIB = 1024 * 1024
NAME = "team/app"
START = f"/v2/{NAME}/blobs/uploads/"


def bytes_of(size: int, seed: int = 0) -> bytes:
    """Return random bytes for a seed."""
    return random.Random(f"{seed} {size}").randbytes(size)


def in_pieces(data: bytes, size: int = 300_000) -> Iterator[bytes]:
    """Return a body without a Content-Length."""
    return (data[at : at + size] for at in range(0, len(data), size))


async def start(registry: FakeRegistry) -> str:
    """Start a session and return its location."""
    answer = await registry.call("POST", START)
    assert answer.status == 202
    return answer.location


async def check_blob(registry: FakeRegistry, data: bytes, name: str = NAME) -> None:
    """Check that GET returns the blob's bytes, and that HEAD agrees."""
    url = f"/v2/{name}/blobs/{digest_of(data)}"
    got, head = await registry.call("GET", url), await registry.call("HEAD", url)
    assert got.status == head.status == 200
    assert got.body == data
    assert head.body == b""
    for answer in (got, head):
        assert answer.headers["Content-Length"] == str(len(data))
        assert answer.headers["Docker-Content-Digest"] == digest_of(data)
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert "no-transform" in answer.headers["Cache-Control"]


def assert_nothing_left(registry: FakeRegistry) -> None:
    """Check that the bucket has only its format and the key that signs sessions."""
    assert registry.bucket.keys() == ["_registry/format", "_registry/session-secret"]
    assert registry.bucket.uploads == {}


# ---------------------------------------------------------------------- accepted pushes
SIZES = [0, 1, 1000, SMALL_PART - 1, SMALL_PART, SMALL_PART + 1, 3 * SMALL_PART + 7, LARGE_PART, LARGE_PART + 1]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("known", [True, False])
async def test_push_in_one_put(registry: FakeRegistry, size: int, known: bool) -> None:
    """end-4a, end-6: POST, then PUT with the whole blob, like containerd and oras."""
    data = bytes_of(size)
    location = with_query(await start(registry), digest=digest_of(data))
    answer = await registry.call("PUT", location, data if known else in_pieces(data))
    assert answer.status == 201, answer
    assert answer.location == f"/v2/{NAME}/blobs/{digest_of(data)}"
    await check_blob(registry, data)
    assert registry.bucket.uploads == {}
    assert registry.bucket.keys(f"{NAME}/uploads/") == []


@pytest.mark.parametrize("size", [0, 1, SMALL_PART, LARGE_PART + 1])
@pytest.mark.parametrize("known", [True, False])
async def test_push_in_one_post(registry: FakeRegistry, size: int, known: bool) -> None:
    """end-4b: POST with the whole blob."""
    data = bytes_of(size)
    answer = await registry.call("POST", f"{START}?digest={digest_of(data)}", data if known else in_pieces(data))
    assert answer.status == 201
    await check_blob(registry, data)
    assert registry.bucket.keys(f"{NAME}/uploads/") == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("known", [True, False])
async def test_push_in_one_chunk(registry: FakeRegistry, size: int, known: bool) -> None:
    """end-5: POST, PATCH, PUT, like Docker (chunked) and skopeo (known length)."""
    data = bytes_of(size)
    chunk = await registry.call("PATCH", await start(registry), data if known else in_pieces(data))
    assert chunk.status == 202
    assert chunk.headers["Range"] == f"0-{max(size - 1, 0)}"
    answer = await registry.call("PUT", with_query(chunk.location, digest=digest_of(data)))
    assert answer.status == 201
    await check_blob(registry, data)
    assert registry.bucket.uploads == {}
    assert registry.bucket.keys(f"{NAME}/uploads/") == []


# Sizes of chunks in bytes; a negative one comes without a Content-Length.
CHUNKS = [
    [5, 3],
    [-5, -3],
    [0, 10, 0],
    [20 * MIB, 30 * MIB, 30 * MIB],
    [-20 * MIB, -30 * MIB, -30 * MIB],
    [20, 100, MIB],
    [33 * MIB, -10 * MIB, 5],
    [33 * MIB, -40 * MIB, 1],
    [1, 40 * MIB],
    [-1, 40 * MIB, -1],
    [SMALL_PART - 1, 1, 1],
    [-(SMALL_PART - 1), -1, -1],
    [3 * SMALL_PART, -SMALL_PART, SMALL_PART],
    [64 * 1024] * 200,
    [-1000] * 100,
    [99 * MIB, -10 * MIB],
    [1, 100 * MIB],
]


@pytest.mark.parametrize("sizes", CHUNKS, ids=str)
@pytest.mark.parametrize("last_in_put", [False, True])
async def test_push_in_chunks_of_any_size(registry: FakeRegistry, sizes: list[int], last_in_put: bool) -> None:
    """Any sequence of chunks results in the blob; the PUT may have the last one."""
    data = bytes_of(sum(map(abs, sizes)))
    location, offset = await start(registry), 0
    for index, size in enumerate(sizes):
        chunk = data[offset : offset + abs(size)]
        offset += abs(size)
        body = in_pieces(chunk) if size < 0 else chunk
        if last_in_put and index == len(sizes) - 1:
            answer = await registry.call("PUT", with_query(location, digest=digest_of(data)), body)
        else:
            answer = await registry.call("PATCH", location, body)
            assert answer.status == 202
            assert answer.headers["Range"] == f"0-{max(offset - 1, 0)}"
            location = answer.location
    if not last_in_put:
        answer = await registry.call("PUT", with_query(location, digest=digest_of(data)))
    assert answer.status == 201
    await check_blob(registry, data)
    assert registry.bucket.uploads == {}
    assert registry.bucket.keys(f"{NAME}/uploads/") == []


async def test_sha512(registry: FakeRegistry) -> None:
    """The other registered algorithm works, with and without parts."""
    for size in (10, SMALL_PART + 1):
        data = bytes_of(size)
        digest = digest_of(data, "sha512")
        started = await registry.call("POST", f"{START}?digest-algorithm=sha512")
        chunk = await registry.call("PATCH", started.location, in_pieces(data))
        assert (await registry.call("PUT", with_query(chunk.location, digest=digest))).status == 201
        assert (await registry.call("GET", f"/v2/{NAME}/blobs/{digest}")).body == data
    assert (await registry.call("POST", f"{START}?digest-algorithm=md5")).codes == ["DIGEST_INVALID"]


async def test_large_blobs_are_data_with_a_ref_and_a_link(registry: FakeRegistry) -> None:
    """The data object is outside the repository. The ref has the link's nonce and the digest."""
    data = bytes_of(SMALL_PART)
    await registry.push_blob(NAME, data)
    link = registry.bucket.objects[f"{NAME}/blobs/{digest_of(data)}"].attributes.metadata
    assert registry.bucket.keys("_data/") == [f"_data/{link['target']}"]
    assert registry.bucket.keys("_refs/") == [f"_refs/{link['target']}/{link['ref']}/{NAME}"]
    assert (link["size"], link["digest"]) == (str(len(data)), digest_of(data))
    ref = registry.bucket.objects[f"_refs/{link['target']}/{link['ref']}/{NAME}"]
    assert ref.attributes.metadata == {"digest": digest_of(data)}


async def test_a_blob_pushed_again_is_kept_once(registry: FakeRegistry) -> None:
    """The second data object, its ref and its marker are deleted; the first data object stays."""
    data = bytes_of(SMALL_PART + 5)
    await registry.push_blob(NAME, data)
    before = registry.bucket.keys()
    await registry.push_blob(NAME, data)
    chunk = await registry.call("PATCH", await start(registry), in_pieces(data))
    assert (await registry.call("PUT", with_query(chunk.location, digest=digest_of(data)))).status == 201
    assert registry.bucket.keys() == before
    await check_blob(registry, data)


async def test_a_broken_link_heals_on_push(registry: FakeRegistry) -> None:
    """A dangling link reads as 404, and the next push replaces it."""
    data = bytes_of(SMALL_PART)
    await registry.push_blob(NAME, data)
    await registry.bucket.delete(registry.bucket.keys("_data/"))
    assert (await registry.call("GET", f"/v2/{NAME}/blobs/{digest_of(data)}")).codes == ["BLOB_UNKNOWN"]
    await registry.push_blob(NAME, data)
    await check_blob(registry, data)


# ---------------------------------------------------------------------- refused pushes
@pytest.mark.parametrize("size", [0, 5, SMALL_PART + 5])
@pytest.mark.parametrize("way", ["put", "post", "known chunk", "unknown chunk", "two chunks", "put of unknown length"])
async def test_a_wrong_digest_leaves_nothing(registry: FakeRegistry, size: int, way: str) -> None:
    """DIGEST_INVALID, 400, and nothing of the upload stays in the bucket."""
    data, wrong = bytes_of(size), digest_of(b"something else")
    location = await start(registry)
    if way == "post":
        answer = await registry.call("POST", f"{START}?digest={wrong}", data)
    elif way == "put":
        answer = await registry.call("PUT", with_query(location, digest=wrong), data)
    elif way == "put of unknown length":
        answer = await registry.call("PUT", with_query(location, digest=wrong), in_pieces(data))
    else:
        parts = [data[: size // 2], data[size // 2 :]] if way == "two chunks" else [data]
        for part in parts:
            body = part if way == "known chunk" else in_pieces(part)
            location = (await registry.call("PATCH", location, body)).location
        answer = await registry.call("PUT", with_query(location, digest=wrong))
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
    assert_nothing_left(registry)


async def test_sessions_are_bound_to_repository_and_time(registry: FakeRegistry) -> None:
    """BLOB_UPLOAD_UNKNOWN for a foreign, forged or expired session id, with every method."""
    location = await start(registry)
    session = location.rpartition("/")[2]
    invented = session[:-1] + ("0" if session[-1] != "0" else "1")
    for url in (f"/v2/other/blobs/uploads/{session}", f"{START}{invented}", f"{START}x", f"{START}{session}x"):
        for method, query in (("PATCH", ""), ("PUT", f"?digest={digest_of(b'x')}"), ("GET", ""), ("DELETE", "")):
            answer = await registry.call(method, url + query, b"x" if method in ("PATCH", "PUT") else b"")
            assert (answer.status, answer.codes) == (404, ["BLOB_UPLOAD_UNKNOWN"])
    registry.clock.now += 24 * 3600
    assert (await registry.call("PATCH", location, b"x")).codes == ["BLOB_UPLOAD_UNKNOWN"]
    assert_nothing_left(registry)


async def test_sessions_work_across_isolates(registry: FakeRegistry) -> None:
    """The bucket has the signing key; an isolate with an outdated key reads it again."""
    location = await start(registry)
    registry.restart()
    assert (await registry.call("PATCH", location, b"x")).status == 202
    other = FakeRegistry(clock=registry.clock, seed=1)
    other_location = await start(other)
    assert other_location != location
    registry.bucket.objects["_registry/session-secret"] = other.bucket.objects["_registry/session-secret"]
    assert (await registry.call("PATCH", other_location, b"x")).status == 202


async def test_post_touches_the_bucket_once(registry: FakeRegistry) -> None:
    """Budget `post`: no R2 call, once the isolate has the key."""
    await start(registry)
    usage = registry.bucket.usage
    before = (usage.class_a, usage.class_b)
    await start(registry)
    assert (registry.bucket.usage.class_a, registry.bucket.usage.class_b) == before


# ---------------------------------------------------------------------- order
async def patch(registry: FakeRegistry, location: str, data: bytes, content_range: str) -> Answer:
    """Send a chunk with a Content-Range."""
    return await registry.call("PATCH", location, data, headers={"Content-Range": content_range})


async def test_chunks_out_of_order_are_refused(registry: FakeRegistry) -> None:
    """end-5: "If a chunk is uploaded out of order, the registry MUST respond with 416"; the session stays usable."""
    location = await start(registry)
    first = await patch(registry, location, b"01234", "0-4")
    assert first.status == 202
    for wrong in ("0-4", "6-10", "4-8"):
        answer = await patch(registry, first.location, b"56789", wrong)
        assert (answer.status, answer.codes) == (416, ["BLOB_UPLOAD_INVALID"])
        assert answer.headers["Range"] == "0-4"
        assert answer.location == first.location
    second = await patch(registry, first.location, b"56789", "5-9")
    assert second.headers["Range"] == "0-9"
    done = await registry.call("PUT", with_query(second.location, digest=digest_of(b"0123456789")))
    assert done.status == 201


async def test_the_same_chunk_twice_is_refused_with_the_truth(registry: FakeRegistry) -> None:
    """416 at the old location has the real offset, and the client can continue from there."""
    location = await start(registry)
    first = await registry.call("PATCH", location, b"01234")
    again = await registry.call("PATCH", location, b"01234")
    assert again.status == 416
    assert (again.headers["Range"], again.location) == ("0-4", first.location)
    second = await registry.call("PATCH", again.location, b"56789")
    stale = await registry.call("PUT", with_query(first.location, digest=digest_of(b"0123456789")))
    assert stale.status == 416
    assert (stale.headers["Range"], stale.location) == ("0-9", second.location)
    assert (await registry.call("PUT", with_query(stale.location, digest=digest_of(b"0123456789")))).status == 201


async def test_a_plain_location_goes_on_by_content_range(registry: FakeRegistry) -> None:
    """A client may keep the POST's location: the log is listed for the real offset."""
    location = await start(registry)
    await patch(registry, location, b"01234", "0-4")
    second = await patch(registry, location, b"56789", "5-9")
    assert second.status == 202
    done = await registry.call("PUT", with_query(location, digest=digest_of(b"0123456789")))
    assert done.status == 201


async def test_a_repository_named_like_a_session(registry: FakeRegistry) -> None:
    """A repository name may contain "uploads": its keys are no entries of the session's log."""
    location = await start(registry)
    first = await registry.call("PATCH", location, b"01234")
    uuid = location.rpartition("/")[2].partition(".")[0]
    await registry.push_blob(f"{NAME}/uploads/{uuid}", b"a blob of that repository")
    status = await registry.call("GET", location)
    assert (status.headers["Range"], status.location) == ("0-4", first.location)


async def test_last_bytes_at_a_plain_location(registry: FakeRegistry) -> None:
    """The last bytes are not taken for a whole blob with a wrong digest: 416 has the real offset."""
    location = await start(registry)
    first = await registry.call("PATCH", location, b"01234")
    answer = await registry.call("PUT", with_query(location, digest=digest_of(b"0123456789")), b"56789")
    assert (answer.status, answer.location) == (416, first.location)
    done = await registry.call("PUT", with_query(first.location, digest=digest_of(b"0123456789")), b"56789")
    assert done.status == 201


@pytest.mark.parametrize("header", ["x", "5", "4-0", "bytes=0-4", "0-4/5", "-", "0-" + "9" * 30])
async def test_a_malformed_content_range(registry: FakeRegistry, header: str) -> None:
    """Spec: it MUST match ^[0-9]+-[0-9]+$."""
    answer = await patch(registry, await start(registry), b"01234", header)
    assert (answer.status, answer.codes) == (400, ["BLOB_UPLOAD_INVALID"])
    assert_nothing_left(registry)


@pytest.mark.parametrize("known", [True, False])
async def test_content_range_and_body_must_agree(registry: FakeRegistry, known: bool) -> None:
    """SIZE_INVALID, and nothing is appended."""
    location = await start(registry)
    for header in ("0-3", "0-5"):
        body = b"01234" if known else in_pieces(b"01234")
        answer = await registry.call("PATCH", location, body, headers={"Content-Range": header})
        assert (answer.status, answer.codes) == (400, ["SIZE_INVALID"])
    assert_nothing_left(registry)


async def test_status_and_cancel(registry: FakeRegistry) -> None:
    """end-13 returns the session's offset; end-14 deletes everything that it stored."""
    location = await start(registry)
    empty = await registry.call("GET", location)
    assert (empty.status, empty.headers["Range"]) == (204, "0-0")
    data = bytes_of(SMALL_PART + 5)
    chunk = await registry.call("PATCH", location, in_pieces(data))
    for url in (location, chunk.location):
        status = await registry.call("GET", url)
        assert (status.status, status.headers["Range"]) == (204, f"0-{len(data) - 1}")
        assert status.location == chunk.location
    assert (await registry.call("DELETE", location)).status == 204
    assert_nothing_left(registry)
    late = await registry.call("PUT", with_query(chunk.location, digest=digest_of(data)))
    assert (late.status, late.codes) == (404, ["BLOB_UPLOAD_UNKNOWN"])


async def test_a_closing_put_asked_again(registry: FakeRegistry) -> None:
    """A PUT repeated after a lost reply: the log is gone, but the blob exists, so it is 201 again."""
    for data in (b"small", bytes_of(SMALL_PART + 5)):
        chunk = await registry.call("PATCH", await start(registry), data)
        url = with_query(chunk.location, digest=digest_of(data))
        assert (await registry.call("PUT", url)).status == 201
        assert (await registry.call("PUT", url)).status == 201
        await check_blob(registry, data)


# ---------------------------------------------------------------------- closing a session of several chunks
async def two_chunks(registry: FakeRegistry, data: bytes) -> str:
    """Push all chunks of a session and return its location. Nothing is hashed before the close."""
    location = await start(registry)
    for chunk in (data[: len(data) // 2], data[len(data) // 2 :]):
        location = (await registry.call("PATCH", location, in_pieces(chunk))).location
    return location


@pytest.mark.parametrize(
    ("call", "folder", "times"),
    [("get", "_data/", 3), ("complete_upload", "_data/", 3), ("put", f"{NAME}/blobs/", 1), ("put", "_refs/", 3)],
)
async def test_a_close_that_failed_is_gone_on_with(registry: FakeRegistry, call: str, folder: str, times: int) -> None:
    """A repeated close sends no part again, and does not read an object that was verified."""
    data = bytes_of(3 * SMALL_PART)
    url = with_query(await two_chunks(registry, data), digest=digest_of(data))
    left = times

    def fail(made: str, key: str) -> None:
        nonlocal left
        if left and made == call and key.startswith(folder):
            left -= 1
            raise StorageError("broken")

    registry.bucket.fail = fail
    assert (await registry.call("PUT", url)).status == 503
    registry.bucket.reset()
    assert (await registry.call("PUT", url)).status == 201
    assert registry.bucket.usage.written < 1000
    is_verified = folder == f"{NAME}/blobs/"
    assert (registry.bucket.usage.read < SMALL_PART) == is_verified
    await check_blob(registry, data)


async def test_what_was_verified_for_one_digest_is_not_for_another(registry: FakeRegistry) -> None:
    """A close that failed after the verification is repeated with another digest, and refused."""
    data = bytes_of(3 * SMALL_PART)
    location = await two_chunks(registry, data)
    left = 1

    def fail(made: str, key: str) -> None:
        nonlocal left
        if left and made == "put" and key.startswith(f"{NAME}/blobs/"):
            left -= 1
            raise StorageError("broken")

    registry.bucket.fail = fail
    assert (await registry.call("PUT", with_query(location, digest=digest_of(data)))).status == 503
    answer = await registry.call("PUT", with_query(location, digest=digest_of(b"another")))
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
