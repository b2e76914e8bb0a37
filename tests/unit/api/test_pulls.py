"""Robust pulls: byte ranges, conditional requests and requests by browsers (RFC 9110, the Fetch standard)."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.api.http import Request
from registry.api.router import handle
from registry.ports.storage import NO_ATTRIBUTES, Attributes, StorageError
from registry.settings import read_settings
from registry.spec.conditions import is_unchanged, may_resume
from registry.spec.errors import RegistryError
from registry.spec.ranges import MAX_RANGES, content_range, parse_ranges
from registry.uploads.parts import SMALL_PART
from tests.fakes.client import ORIGIN, VARIABLES, Answer, FakeRegistry, basic, digest_of
from tests.fakes.streams import FakeSource
from tests.images import push_image
from tests.unit.uploads.test_uploads import bytes_of

NAME = "team/app"
SMALL, LARGE = bytes_of(1000), bytes_of(SMALL_PART + 1000)


async def get(registry: FakeRegistry, data: bytes, method: str = "GET", **headers: str) -> Answer:
    """Send a GET with more headers; underscores in their names stand for dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await registry.call(method, f"/v2/{NAME}/blobs/{digest_of(data)}", headers=named)


# ------------------------------------------------------------------ ranges
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "linked"])
@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-499", 0, 500),
        ("bytes=500-", 500, None),
        ("bytes=500-99999999", 500, None),
        ("bytes=-10", -10, None),
        ("bytes=-99999999", 0, None),
        ("bytes=0-", 0, None),
    ],
)
async def test_a_part(registry: FakeRegistry, data: bytes, header: str, start: int, end: int | None) -> None:
    """206 has exactly the requested bytes and their position. It takes two R2 calls and reads only those bytes."""
    await registry.push_blob(NAME, data)
    read, calls = registry.bucket.usage.read, registry.bucket.usage.class_b
    answer = await get(registry, data, range=header)
    expected = data[start:end]
    first = data.index(expected)
    assert (answer.status, answer.body) == (206, expected)
    assert answer.headers["Content-Range"] == f"bytes {first}-{first + len(expected) - 1}/{len(data)}"
    assert answer.headers["Content-Length"] == str(len(expected))
    assert answer.headers["Docker-Content-Digest"] == digest_of(data)
    assert registry.bucket.usage.read - read == len(expected)
    assert registry.bucket.usage.class_b - calls == 2


@pytest.mark.parametrize(
    "header", ["bytes=1000-", "bytes=1000-2000", "bytes=500-0", "bytes=-0", "bytes=99999999999999-"]
)
async def test_behind_the_end(registry: FakeRegistry, header: str) -> None:
    """A range after the last byte is 416, with the true size."""
    await registry.push_blob(NAME, SMALL)
    answer = await get(registry, SMALL, range=header)
    assert (answer.status, answer.codes) == (416, ["RANGE_INVALID"])
    assert answer.headers["Content-Range"] == "bytes */1000"
    await registry.push_blob(NAME, b"")
    assert (await get(registry, b"", range="bytes=0-")).status == 416


@pytest.mark.parametrize(
    "header",
    ["bytes=-", "bytes=a-b", "lines=1-2", "bytes 0-1", "", "bytes=0-1-2", f"bytes=0-{'9' * 99}"],
)
async def test_what_cannot_be_understood_is_ignored(registry: FakeRegistry, header: str) -> None:
    """An invalid Range header is ignored: 200 with all bytes."""
    await registry.push_blob(NAME, SMALL)
    answer = await get(registry, SMALL, range=header)
    assert (answer.status, answer.body) == (200, SMALL)
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert "Content-Range" not in answer.headers


async def test_a_cut_download_is_resumed(registry: FakeRegistry) -> None:
    """With If-Range, as Go's clients send it: 206 for the same blob, 200 with everything for another one."""
    await registry.push_blob(NAME, LARGE)
    etag = (await get(registry, LARGE, "HEAD")).headers["ETag"]
    answer = await get(registry, LARGE, range="bytes=5000-", if_range=etag)
    assert (answer.status, answer.body) == (206, LARGE[5000:])
    for other in ('"other"', f"W/{etag}", "Mon, 01 Jan 2024 00:00:00 GMT"):
        answer = await get(registry, LARGE, range="bytes=5000-", if_range=other)
        assert (answer.status, answer.body) == (200, LARGE)


async def test_a_blob_that_moves_while_a_part_of_it_is_read(registry: FakeRegistry) -> None:
    """The migration replaces bytes with a link: the link's own bytes are never served."""
    await registry.push_blob("other", LARGE)
    link = registry.bucket.objects[f"other/blobs/{digest_of(LARGE)}"]
    key = f"{NAME}/blobs/{digest_of(LARGE)}"
    registry.bucket.seed(key, LARGE, NO_ATTRIBUTES, None)

    def move(call: str, asked: str) -> None:
        if (call, asked) == ("get", key):
            registry.bucket.seed(key, link.data, link.attributes, None)

    no_fault, registry.bucket.fail = registry.bucket.fail, move
    assert (await get(registry, LARGE, range="bytes=0-9")).status == 503
    registry.bucket.fail = no_fault
    answer = await get(registry, LARGE, range="bytes=0-9")
    assert (answer.status, answer.body) == (206, LARGE[:10])


async def test_a_linked_blob_that_moves_while_it_is_read(registry: FakeRegistry) -> None:
    """The migration replaces the target of a serverless-registry link while a client reads through that link."""
    await registry.push_blob("other", LARGE)
    ours = registry.bucket.objects[f"other/blobs/{digest_of(LARGE)}"]
    source = f"source/blobs/{digest_of(LARGE)}"
    registry.bucket.seed(source, LARGE, NO_ATTRIBUTES, None)
    sr = Attributes(metadata={"X-Serverless-Registry-Symlink": "source"})
    registry.bucket.seed(f"{NAME}/blobs/{digest_of(LARGE)}", b"source", sr, None)

    def move(call: str, asked: str) -> None:
        if (call, asked) == ("get", source):
            registry.bucket.seed(source, ours.data, ours.attributes, None)

    no_fault, registry.bucket.fail = registry.bucket.fail, move
    assert (await get(registry, LARGE)).status == 503
    registry.bucket.fail = no_fault
    assert (await get(registry, LARGE)).body == LARGE


async def test_a_range_of_nothing(registry: FakeRegistry) -> None:
    """An unknown blob is 404 before its Range header is evaluated. HEAD ignores ranges."""
    for headers in ({"range": "bytes=0-1"}, {"if_none_match": "*"}):
        assert (await get(registry, SMALL, **headers)).status == 404
    await registry.push_blob(NAME, SMALL)
    answer = await get(registry, SMALL, "HEAD", range="bytes=0-1")
    assert (answer.status, answer.headers["Content-Length"]) == (200, "1000")


@given(st.integers(0, 50), st.integers(0, 60), st.one_of(st.none(), st.integers(0, 60)))
def test_ranges_are_slices(size: int, first: int, last: int | None) -> None:
    """A range returns the same bytes as a slice in Python."""
    data = bytes(range(size))
    try:
        parts = parse_ranges(f"bytes={first}-{'' if last is None else last}", size)
    except RegistryError:
        assert data[first : None if last is None else last + 1] == b""
        return
    (part,) = parts
    assert part.length is not None
    assert data[part.offset : part.offset + part.length] == data[first : None if last is None else last + 1]
    assert content_range(part, size).endswith(f"/{size}")


@given(st.text())
def test_any_range_header(header: str) -> None:
    """No Range header raises an unexpected exception."""
    parse_ranges(header, 10)


# ------------------------------------------------------------------ several ranges
def parts_of(answer: Answer) -> list[tuple[str, bytes]]:
    """Return Content-Range and bytes of each part of a multipart body."""
    boundary = answer.headers["Content-Type"].removeprefix("multipart/byteranges; boundary=").encode()
    first, *parts, end = answer.body.split(b"\r\n--" + boundary)
    assert (first, end) == (b"", b"--\r\n")
    found = []
    for part in parts:
        head, _, data = part.partition(b"\r\n\r\n")
        _, kind, content_range = head.decode().split("\r\n")
        assert kind == "Content-Type: application/octet-stream"
        found.append((content_range.removeprefix("Content-Range: "), data))
    return found


@pytest.mark.parametrize("data", [SMALL, LARGE])
async def test_several_ranges(registry: FakeRegistry, data: bytes) -> None:
    """206 with each range, in the requested order, with one R2 call each."""
    await registry.push_blob(NAME, data)
    before = registry.bucket.usage.class_b
    answer = await get(registry, data, range="bytes=500-599, 0-9,-5")
    assert (answer.status, answer.headers["Content-Length"]) == (206, str(len(answer.body)))
    size = len(data)
    assert parts_of(answer) == [
        (f"bytes 500-599/{size}", data[500:600]),
        (f"bytes 0-9/{size}", data[:10]),
        (f"bytes {size - 5}-{size - 1}/{size}", data[-5:]),
    ]
    assert registry.bucket.usage.class_b - before == 4


@pytest.mark.parametrize(
    ("asked", "ranges"),
    [
        ("0-9,10-19,15-29", ["0-29"]),
        ("5-9,0-4", ["0-9"]),
        ("0-9,20-29,8-12", ["0-12", "20-29"]),
        ("0-0,990-99999999999999999999999", ["0-0", "990-999"]),
        ("0-18446744073709551615", ["0-999"]),
        ("2000-3000,1-2", ["1-2"]),
        (",0-1,,3-4,", ["0-1", "3-4"]),
        ("0-999,0-999,0-999", ["0-999"]),
        ("5-2,0-1", ["0-1"]),
        ("0-1,x", []),
        (",".join(f"{2 * number}-{2 * number}" for number in range(MAX_RANGES)), None),
        (",".join(f"{2 * number}-{2 * number}" for number in range(MAX_RANGES + 1)), []),
    ],
)
async def test_ranges_that_overlap_or_make_no_sense(
    registry: FakeRegistry, asked: str, ranges: list[str] | None
) -> None:
    """Overlapping or adjacent ranges are merged. Invalid or too many ranges return all of the blob."""
    await registry.push_blob(NAME, SMALL)
    url = f"/v2/{NAME}/blobs/{digest_of(SMALL)}"
    answer = await registry.call("GET", url, headers={"Range": f"bytes={asked}"}, budget=MAX_RANGES + 1)
    if ranges == []:
        assert (answer.status, answer.body) == (200, SMALL)
    elif ranges is None:
        assert len(parts_of(answer)) == MAX_RANGES
    elif len(ranges) == 1:
        assert (answer.status, answer.headers["Content-Range"]) == (206, f"bytes {ranges[0]}/1000")
    else:
        assert [one for one, _ in parts_of(answer)] == [f"bytes {one}/1000" for one in ranges]


async def test_several_ranges_behind_the_end(registry: FakeRegistry) -> None:
    """416 when all ranges begin after the last byte."""
    await registry.push_blob(NAME, SMALL)
    assert (await get(registry, SMALL, range="bytes=1000-1001,2000-")).status == 416


async def test_a_part_that_fails_breaks_the_download(registry: FakeRegistry) -> None:
    """A failed range breaks the connection, so that no client takes the body for complete."""
    await registry.push_blob(NAME, LARGE)
    reads = 0

    def fail(call: str, key: str) -> None:
        nonlocal reads
        reads += call == "get"
        if reads > 1:
            raise StorageError("R2 fell over")

    registry.bucket.fail = fail
    answer = await get(registry, LARGE, range="bytes=0-9,20-29")
    assert (answer.status, answer.is_whole) == (206, False)


# ------------------------------------------------------------------ what the client has
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_not_modified(registry: FakeRegistry, method: str) -> None:
    """If-None-Match with the digest is 304 without a body, for blobs and manifests; with another value it is 200."""
    manifest = await push_image(registry, NAME, "1", [SMALL])
    for path in (f"blobs/{digest_of(SMALL)}", f"manifests/{digest_of(manifest)}", "manifests/1"):
        url = f"/v2/{NAME}/{path}"
        etag = (await registry.call(method, url)).headers["ETag"]
        for condition, status in (
            (etag, 304),
            (f'"a", W/{etag}', 304),
            ("*", 304),
            ('"other"', 200),
            (etag.strip('"'), 200),
        ):
            answer = await registry.call(method, url, headers={"If-None-Match": condition})
            assert answer.status == status
            if status == 304:
                assert answer.body == b""
                assert answer.headers["ETag"] == etag
                assert "Content-Length" not in answer.headers
    await push_image(registry, NAME, "1", [b"new"])
    answer = await registry.call(method, f"/v2/{NAME}/manifests/1", headers={"If-None-Match": etag})
    assert answer.status == 200


async def test_a_manifest_without_a_digest(registry: FakeRegistry) -> None:
    """A tag without R2's checksum has no ETag, and is always sent in full."""
    registry.bucket.seed(f"{NAME}/manifests/1", b"{}", NO_ATTRIBUTES, None)
    answer = await registry.call("GET", f"/v2/{NAME}/manifests/1", headers={"If-None-Match": "*"})
    assert (answer.status, answer.body) == (200, b"{}")


@given(st.text(), st.text())
def test_any_condition(header: str, etag: str) -> None:
    """No value of If-None-Match raises an exception."""
    is_unchanged(header, f'"{etag}"')
    may_resume(header, f'"{etag}"')


async def test_whatever_a_client_accepts(registry: FakeRegistry) -> None:
    """The answer is the manifest as it was pushed, with its media type, for every Accept header."""
    manifest = await push_image(registry, NAME, "1", [SMALL])
    for accept in ("*/*", "application/json", "application/vnd.docker.distribution.manifest.v2+json", "nonsense"):
        answer = await registry.call("GET", f"/v2/{NAME}/manifests/1", headers={"Accept": accept})
        assert (answer.status, answer.body) == (200, manifest)
        assert answer.headers["Content-Type"] == "application/vnd.oci.image.manifest.v1+json"


# ------------------------------------------------------------------ sparse manifests
async def test_sparse_manifests() -> None:
    """Refused by default, allowed by the setting. A wrong size is refused either way."""
    manifest = await push_image(FakeRegistry(), NAME, "1", [SMALL])
    url, headers = f"/v2/{NAME}/manifests/1", {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
    sparse = FakeRegistry(settings=read_settings({**VARIABLES, "SPARSE_MANIFESTS": "true"}.get))
    for registry, status in ((FakeRegistry(), 404), (sparse, 201)):
        assert (await registry.call("PUT", url, manifest, headers=headers)).status == status
    await sparse.push_blob(NAME, SMALL)
    document = json.loads(manifest)
    document["layers"][0]["size"] += 1
    assert (await sparse.call("PUT", url, json.dumps(document).encode(), headers=headers)).status == 400


# ------------------------------------------------------------------ browsers
UI, OTHER = "https://ui.example.com", "https://evil.example"
PREFLIGHT = {"Access-Control-Request-Method": "DELETE", "Access-Control-Request-Headers": "authorization"}


def with_origins(origins: str) -> FakeRegistry:
    """Return a registry with these CORS_ORIGINS."""
    return FakeRegistry(settings=read_settings({**VARIABLES, "CORS_ORIGINS": origins}.get))


async def test_a_page_that_the_operator_named() -> None:
    """An allowed page gets its preflight answered, may send credentials, and may read all answers and errors."""
    registry = with_origins(f"http://localhost:8080, {UI}")
    answer = await registry.call("OPTIONS", "/v2/a/manifests/1", user=None, headers={"Origin": UI, **PREFLIGHT})
    assert answer.status == 204
    assert "DELETE" in answer.headers["Access-Control-Allow-Methods"]
    assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
    for user, status in ((None, 401), (("hello", "world"), 200)):
        answer = await registry.call("GET", "/v2/_catalog", user=user, headers={"Origin": UI})
        assert answer.status == status
        assert answer.headers["Access-Control-Allow-Origin"] == UI
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert "Docker-Content-Digest" in answer.headers["Access-Control-Expose-Headers"]
        assert answer.headers["Vary"] == "Origin"


async def test_any_page() -> None:
    """With "*", scripts of any page may send requests, but browsers add no stored password."""
    answer = await with_origins("*").call("GET", "/v2/", headers={"Origin": OTHER})
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in answer.headers


async def test_other_pages_and_no_setting(registry: FakeRegistry) -> None:
    """Pages of other origins get no permission. Without the setting, there are no CORS headers at all."""
    for origin, asked in ((OTHER, with_origins(UI)), (UI, registry), ("null", with_origins(UI))):
        for method, user in (("GET", ("hello", "world")), ("OPTIONS", None)):
            answer = await asked.call(method, "/v2/", user=user, headers={"Origin": origin, **PREFLIGHT})
            assert not any(name.startswith("Access-Control-Allow-Origin") for name in answer.headers)
    assert (await registry.call("OPTIONS", "/v2/", headers={"Origin": UI})).status == 405


@pytest.mark.parametrize("value", ["ui.example.com", "https://ui.example.com/", "https://*.example.com/x", "null"])
def test_malformed_origins(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The log tells the operator what a valid origin is."""
    assert read_settings({"CORS_ORIGINS": value}.get).cors_origins == ()
    assert "an origin must be scheme" in capsys.readouterr().out


@pytest.mark.parametrize("header", ["bytes=-5", "bytes=-5,-6", "bytes=0-", "bytes=0-0"])
async def test_ranges_of_an_empty_blob(registry: FakeRegistry, header: str) -> None:
    """Every range of an empty blob is 416."""
    await registry.push_blob(NAME, b"")
    answer = await get(registry, b"", range=header)
    assert (answer.status, answer.codes) == (416, ["RANGE_INVALID"])


async def test_readers_that_stall_hold_nothing_that_pushes_need(registry: FakeRegistry) -> None:
    """Answers have buffers of their own. A client that reads too slowly loses its connection."""
    await registry.push_blob(NAME, LARGE)
    registry.pause = 0.0
    registry.side_by_side = True
    registry.bucket.open_limit = 100
    running: list[asyncio.Future[None]] = []

    def stalled() -> Request:
        sent = {"authorization": basic("hello", "world"), "range": "bytes=0-3999999,5000000-8999999"}
        path = f"/v2/{NAME}/blobs/{digest_of(LARGE)}"
        keep = running.append
        body = FakeSource([], 0)
        return Request("GET", ORIGIN, path, "", sent.get, body, lambda work: keep(asyncio.ensure_future(work)))

    answers = [await handle(registry.registry, stalled()) for _ in range(40)]
    assert {answer.status for answer in answers} == {206}
    began = registry.clock.now
    started = await registry.call("POST", "/v2/b/blobs/uploads/")
    chunk = await registry.call("PATCH", started.location, bytes(1024))
    assert (chunk.status, registry.clock.now) == (202, began)
    await asyncio.gather(*running)
    platform = registry.registry.platform
    assert (platform.answers.held, platform.copies.held) == (0, 0)
    assert registry.bucket.open_bodies == 0
