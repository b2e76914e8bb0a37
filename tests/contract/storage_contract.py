"""Test cases for every implementation of `registry.ports.storage`: async functions that run in pytest and in workerd.

Each takes a `Bench`. Cases of rules that R2 enforces in production but Miniflare does not run on the fake alone
(`PRODUCTION_ONLY`).
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from registry.ports.platform import COPY_BUFFER, Platform
from registry.ports.storage import (
    ABSENT,
    MIN_PART_SIZE,
    Attributes,
    ChecksumMismatch,
    Content,
    NotAfter,
    PartChanged,
    Source,
    Storage,
    StorageBusy,
    StorageError,
    Streams,
    UploadGone,
)
from registry.spec.names import Digest
from registry.spec.ranges import ByteRange
from registry.storage.transfer import Span, copy, digest_of, through_pipe

PART = MIN_PART_SIZE


@dataclass(frozen=True, slots=True)
class Bench:
    """The environment of a case. `source` makes a request's body; `size` None means without a known length."""

    platform: Platform
    bucket: Storage
    source: Callable[[bytes, int | None], Source]
    wait: Callable[[float], Awaitable[None]]  # waits for seconds; the fake moves its clock

    @property
    def storage(self) -> Storage:
        """The bucket itself, without retries."""
        return self.bucket

    @property
    def streams(self) -> Streams:
        """The runtime's streams."""
        return self.platform.streams


Case = Callable[[Bench], Awaitable[None]]
CASES: dict[str, Case] = {}
PRODUCTION_ONLY: set[str] = set()


def case(function: Case) -> Case:
    """Register a case under its name."""
    CASES[function.__name__] = function
    return function


def production_only(function: Case) -> Case:
    """Register a case that Miniflare's R2 does not enforce."""
    PRODUCTION_ONLY.add(function.__name__)
    return case(function)


def sha256(data: bytes) -> Digest:
    """The sha256 digest of bytes."""
    return Digest("sha256", hashlib.sha256(data).hexdigest())


def pattern(size: int, seed: int = 0) -> bytes:
    """Pseudorandom bytes."""
    block = hashlib.shake_256(str(seed).encode()).digest(min(size, 65_536))
    return (block * (size // max(len(block), 1) + 1))[:size]


async def bytes_at(bench: Bench, key: str, byte_range: ByteRange | None = None) -> bytes | None:
    """The bytes of an object or of a range of it; None when it is missing."""
    stored = await bench.storage.get(key, byte_range)
    if stored is None:
        return None
    data = bytearray()
    while chunk := await stored.body.read(COPY_BUFFER):
        data += chunk
    return bytes(data)


async def raises(kind: type[Exception], awaitable: Awaitable[object]) -> None:
    """Replace `pytest.raises`, which does not exist in workerd."""
    try:
        await awaitable
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")


def part_content(bench: Bench, data: bytes) -> Content:
    """Bytes as the content of a part."""
    return bench.streams.content(data)


# ---------------------------------------------------------------------- objects
@case
async def a_missing_key_gives_none(bench: Bench) -> None:
    """Head and get of a missing key return None."""
    assert await bench.storage.head("none") is None
    assert await bench.storage.get("none") is None


@case
async def put_and_read_back(bench: Bench) -> None:
    """Bytes, content type, metadata, checksum, size and MD5 etag come back."""
    data = b"some bytes"
    attributes = Attributes("application/json", {"target": "x", "size": "0", "length": "7"})
    await bench.storage.put("object", data, attributes, checksum=sha256(data))
    stored = await bench.storage.head("object")
    assert stored is not None
    assert (stored.key, stored.size, stored.content_type) == ("object", len(data), "application/json")
    assert dict(stored.metadata) == dict(attributes.metadata)
    assert stored.checksum == sha256(data)
    assert stored.etag == hashlib.md5(data).hexdigest()
    assert stored.uploaded > 1_600_000_000
    assert await bytes_at(bench, "object") == data


@case
async def an_empty_object_exists(bench: Bench) -> None:
    """An object without bytes is not taken for missing (a JavaScript object of size 0 is false in Python)."""
    await bench.storage.put("empty", b"", checksum=sha256(b""))
    stored = await bench.storage.head("empty")
    assert stored is not None
    assert stored.size == 0
    assert await bytes_at(bench, "empty") == b""


@case
async def put_takes_a_body_of_known_size(bench: Bench) -> None:
    """A request's body is passed on unread."""
    for size in (0, 1, 3 * COPY_BUFFER + 7):
        data = pattern(size)
        await bench.storage.put(f"body-{size}", bench.source(data, size), checksum=sha256(data))
        assert await bytes_at(bench, f"body-{size}") == data


@case
async def put_refuses_a_body_of_unknown_size(bench: Bench) -> None:
    """R2 requires the length before the first byte."""
    await raises(Exception, bench.storage.put("unknown", bench.source(b"abc", None)))
    assert await bench.storage.head("unknown") is None


@case
async def put_with_a_wrong_checksum_stores_nothing(bench: Bench) -> None:
    """Bytes and streams with a wrong checksum fail (R2's error 10037) and store nothing."""
    await raises(ChecksumMismatch, bench.storage.put("wrong", b"abc", checksum=sha256(b"abd")))
    await raises(ChecksumMismatch, bench.storage.put("wrong", bench.source(b"abc", 3), checksum=sha256(b"abd")))
    assert await bench.storage.head("wrong") is None


@case
async def sha512_is_verified_too(bench: Bench) -> None:
    """A sha512 checksum is verified like sha256."""
    digest = Digest("sha512", hashlib.sha512(b"abc").hexdigest())
    stored = await bench.storage.put("sha512", b"abc", checksum=digest)
    assert stored is not None
    assert stored.checksum == digest
    await raises(ChecksumMismatch, bench.storage.put("sha512-wrong", b"abd", checksum=digest))


@case
async def create_if_absent(bench: Bench) -> None:
    """A put with ABSENT does not replace an object: the compare-and-swap of the upload log and of links."""
    assert await bench.storage.put("once", b"first", only_if=ABSENT) is not None
    assert await bench.storage.put("once", b"second", only_if=ABSENT) is None
    assert await bench.storage.put("once", bench.source(b"third", 5), only_if=ABSENT) is None
    assert await bytes_at(bench, "once") == b"first"


@case
async def replace_if_unchanged(bench: Bench) -> None:
    """A put with an etag replaces only the object that has it."""
    first = await bench.storage.put("swap", b"first")
    assert first is not None
    await bench.wait(1)
    assert await bench.storage.put("swap", b"second", only_if=first.etag) is not None
    await bench.wait(1)
    assert await bench.storage.put("swap", b"third", only_if=first.etag) is None
    assert await bench.storage.put("swap-none", b"x", only_if=first.etag) is None
    assert await bytes_at(bench, "swap") == b"second"


@case
async def replace_if_not_put_since(bench: Bench) -> None:
    """A put with NotAfter replaces only an object of that age: the same bytes put again keep the etag, not the time."""
    first = await bench.storage.put("since", b"same")
    assert first is not None
    await bench.wait(1)
    second = await bench.storage.put("since", b"same")
    assert second is not None
    assert second.etag == first.etag
    await bench.wait(1)
    assert await bench.storage.put("since", b"", only_if=NotAfter(first.uploaded)) is None
    (listed,) = (await bench.storage.list("since")).objects
    assert await bench.storage.put("since", b"", only_if=NotAfter(listed.uploaded)) is not None
    assert await bytes_at(bench, "since") == b""
    assert await bench.storage.put("since-none", b"", only_if=NotAfter(first.uploaded)) is not None


@production_only
async def one_write_a_second_to_a_key(bench: Bench) -> None:
    """R2 answers 429 to a second write within a second; Miniflare does not."""
    await bench.storage.put("hot", b"1")
    await raises(StorageBusy, bench.storage.put("hot", b"2"))
    await bench.wait(1)
    await bench.storage.put("hot", b"2")


@case
async def ranges(bench: Bench) -> None:
    """A range has an offset and perhaps a length, which is clamped at the end; an offset past the end is an error."""
    data = pattern(1000)
    await bench.storage.put("range", data)
    assert await bytes_at(bench, "range", ByteRange(10, 20)) == data[10:30]
    assert await bytes_at(bench, "range", ByteRange(990)) == data[990:]
    assert await bytes_at(bench, "range", ByteRange(990, 50)) == data[990:]
    stored = await bench.storage.get("range", ByteRange(100, 300))
    assert stored is not None
    assert (stored.body.size, stored.object.size) == (300, 1000)
    await stored.body.cancel()
    await raises(StorageError, bench.storage.get("range", ByteRange(1000)))


@case
async def delete_many(bench: Bench) -> None:
    """Deleting missing keys is no error."""
    await bench.storage.put("d/1", b"")
    await bench.storage.put("d/2", b"")
    await bench.storage.delete(["d/1", "d/2", "d/3"])
    assert (await bench.storage.list("d/")).objects == []


@case
async def keys_and_metadata_have_limits(bench: Bench) -> None:
    """A key has at most 1,024 bytes; metadata 8,192 in production, 2,048 in Miniflare, which the registry respects."""
    await bench.storage.put("k" * 1024, b"")
    await raises(StorageError, bench.storage.put("k" * 1025, b""))
    await bench.storage.put("meta", b"", Attributes(metadata={"a": "x" * 2000}))
    await raises(StorageError, bench.storage.put("meta-large", b"", Attributes(metadata={"a": "x" * 8200})))


# ---------------------------------------------------------------------- listing
async def every_key(bench: Bench, prefix: str, limit: int, *, with_metadata: bool = False) -> Sequence[str]:
    """All keys below a prefix, listed page by page."""
    found: list[str] = []
    page = await bench.storage.list(prefix, limit=limit, with_metadata=with_metadata)
    found += [item.key for item in page.objects]
    while page.cursor is not None:
        page = await bench.storage.list(prefix, limit=limit, cursor=page.cursor, with_metadata=with_metadata)
        found += [item.key for item in page.objects]
    return found


@case
async def list_in_pages(bench: Bench) -> None:
    """Pages of any size list the keys below the prefix in order, with metadata on request."""
    for number in range(12):
        await bench.storage.put(f"l/{number:02}", b"", Attributes(metadata={"n": str(number)}))
    await bench.storage.put("l", b"")
    await bench.storage.put("m", b"")
    expected = [f"l/{number:02}" for number in range(12)]
    for limit in (1, 5, 12, 1000):
        assert await every_key(bench, "l/", limit) == expected
    page = await bench.storage.list("l/", with_metadata=True)
    assert page.objects[3].metadata == {"n": "3"}
    after = await bench.storage.list("l/", start_after="l/09")
    assert [item.key for item in after.objects] == ["l/10", "l/11"]
    await raises(StorageError, bench.storage.list("l/", limit=1001))


@case
async def list_with_delimiter(bench: Bench) -> None:
    """With a delimiter, common prefixes replace the keys below them."""
    for key in ("t/a", "t/b/1", "t/b/2", "t/c/1"):
        await bench.storage.put(key, b"")
    page = await bench.storage.list("t/", delimiter="/")
    assert [item.key for item in page.objects] == ["t/a"]
    assert list(page.prefixes) == ["t/b/", "t/c/"]
    behind_b = await bench.storage.list("t/", delimiter="/", start_after="t/b0")
    assert list(behind_b.prefixes) == ["t/c/"]
    first = await bench.storage.list("t/", delimiter="/", limit=2)
    assert list(first.prefixes) == ["t/b/"]
    assert first.cursor is not None
    second = await bench.storage.list("t/", delimiter="/", limit=2, cursor=first.cursor)
    assert (list(second.prefixes), second.cursor) == (["t/c/"], None)


# ---------------------------------------------------------------------- multipart
@case
async def parts_become_an_object(bench: Bench) -> None:
    """Equal parts and a smaller last one become an object, which does not exist before completion."""
    first, last = pattern(PART, 1), pattern(100, 2)
    upload = await bench.storage.create_upload("multi")
    etags = [
        await bench.storage.upload_part(upload, 1, part_content(bench, first)),
        await bench.storage.upload_part(upload, 2, bench.source(last, len(last))),
    ]
    assert await bench.storage.head("multi") is None
    stored = await bench.storage.complete_upload(upload, etags)
    assert stored.size == PART + 100
    assert stored.etag.endswith("-2")
    assert await bytes_at(bench, "multi") == first + last


@case
async def a_replaced_part_does_not_complete(bench: Bench) -> None:
    """The same bytes sent again get another etag; completing with the old one fails (10025)."""
    data = pattern(100)
    upload = await bench.storage.create_upload("replaced")
    old = await bench.storage.upload_part(upload, 1, part_content(bench, data))
    new = await bench.storage.upload_part(upload, 1, part_content(bench, data))
    assert old != new
    await raises(PartChanged, bench.storage.complete_upload(upload, [old]))
    await bench.storage.complete_upload(upload, [new])


@case
async def a_finished_upload_is_gone(bench: Bench) -> None:
    """After complete or abort every call fails with 10024, except abort itself."""
    upload = await bench.storage.create_upload("finished")
    etag = await bench.storage.upload_part(upload, 1, part_content(bench, b"x"))
    await bench.storage.complete_upload(upload, [etag])
    await raises(UploadGone, bench.storage.complete_upload(upload, [etag]))
    await raises(UploadGone, bench.storage.upload_part(upload, 2, part_content(bench, b"x")))
    await bench.storage.abort_upload(upload)
    aborted = await bench.storage.create_upload("aborted")
    await bench.storage.abort_upload(aborted)
    await raises(UploadGone, bench.storage.upload_part(aborted, 1, part_content(bench, b"x")))


@case
async def parts_have_size_rules(bench: Bench) -> None:
    """Parts have at least 5 MiB (10011) and the same size (10048), except the last one."""
    small = await bench.storage.create_upload("small")
    etags = [await bench.storage.upload_part(small, number, part_content(bench, b"x" * 100)) for number in (1, 2)]
    await raises(StorageError, bench.storage.complete_upload(small, etags))
    unequal = await bench.storage.create_upload("unequal")
    etags = [
        await bench.storage.upload_part(unequal, 1, part_content(bench, pattern(PART))),
        await bench.storage.upload_part(unequal, 2, part_content(bench, pattern(PART + 1))),
        await bench.storage.upload_part(unequal, 3, part_content(bench, b"x")),
    ]
    await raises(StorageError, bench.storage.complete_upload(unequal, etags))


# ---------------------------------------------------------------------- streams
@case
async def fill_reads_exactly(bench: Bench) -> None:
    """`fill` writes exactly the requested range of a buffer, except at the end of the body; other bytes stay."""
    data = pattern(200_000)
    source = bench.source(data, None)
    buffer = bench.streams.buffer(150_000)
    assert await source.fill(buffer, 0, 100_000) == 100_000
    assert await source.fill(buffer, 100_000, 150_000) == 50_000
    await bench.storage.put("filled", buffer.slice(0, 150_000))
    assert await bytes_at(bench, "filled") == data[:150_000]
    assert await source.fill(buffer, 0, 150_000) == 50_000
    assert await source.fill(buffer, 0, 150_000) == 0
    await source.cancel()


@case
async def buffers_are_copied_and_stay_whole(bench: Bench) -> None:
    """A slice of one buffer is copied into another; reads do not detach the memory of either."""
    data = pattern(100_000)
    first, second = bench.streams.buffer(40_000), bench.streams.buffer(100_000)
    source = bench.source(data, None)
    assert await source.fill(first, 0, 40_000) == 40_000
    second.copy(0, first.slice(0, 40_000))
    assert await source.fill(second, 40_000, 100_000) == 60_000
    assert first.is_whole
    assert second.is_whole
    await bench.storage.put("copied", second.slice(0, 100_000), checksum=sha256(data))


@case
async def a_partly_read_body_is_streamed(bench: Bench) -> None:
    """A header is read and the rest is streamed, as with an entry of the upload log."""
    data = pattern(300_000)
    await bench.storage.put("begun", data)
    stored = await bench.storage.get("begun")
    assert stored is not None
    assert await stored.body.read(1000) == data[:1000]
    rest = stored.body

    async def store(content: Content) -> object:
        return await bench.storage.put("rest", content, checksum=sha256(data[1000:]))

    await through_pipe(bench.platform, 299_000, lambda pipe: copy(bench.platform, Span(rest, 299_000), pipe), store)
    assert await bytes_at(bench, "rest") == data[1000:]


@case
async def a_pipe_of_the_wrong_size_stores_nothing(bench: Bench) -> None:
    """Too few bytes, or a body that ends early, store nothing."""
    platform = bench.platform

    async def store(content: Content) -> object:
        return await bench.storage.put("piped", content)

    await raises(Exception, through_pipe(platform, 10, lambda pipe: pipe.write(bench.streams.content(b"12345")), store))
    source = bench.source(b"12345", 5)
    await raises(Exception, through_pipe(platform, 10, lambda pipe: copy(platform, Span(source, 10), pipe), store))
    assert await bench.storage.head("piped") is None


@case
async def a_refusing_storage_stops_the_writer(bench: Bench) -> None:
    """When `put` fails early, the writer of the pipe does not hang."""
    platform = bench.platform
    size = 3 * COPY_BUFFER

    async def store(content: Content) -> object:
        return await bench.storage.put("k" * 1025, content)

    source = bench.source(pattern(size), size)
    await raises(
        StorageError, through_pipe(platform, size, lambda pipe: copy(platform, Span(source, size), pipe), store)
    )


@case
async def digests(bench: Bench) -> None:
    """Digests of no, few and many bytes are right; an aborted digester does not hang."""
    platform = bench.platform
    for size in (0, 1, 2 * COPY_BUFFER + 7):
        data = pattern(size)
        assert await digest_of(platform, bench.source(data, size), "sha256") == sha256(data)
        expected = Digest("sha512", hashlib.sha512(data).hexdigest())
        assert await digest_of(platform, bench.source(data, None), "sha512") == expected
    abandoned = bench.streams.digester("sha256")
    await abandoned.update(bench.streams.content(b"x"))
    await abandoned.abort()
