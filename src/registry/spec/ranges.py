"""Byte ranges on the wire, where ends are inclusive; inside, they are half-open."""

import re
from dataclasses import dataclass

from registry.spec.errors import Problem, RegistryError

# Spec, "Pushing a blob in chunks": <range> MUST match this. 15 digits: more bytes than an R2 object can have.
_CONTENT_RANGE = re.compile(r"([0-9]{1,15})-([0-9]{1,15})", re.ASCII)
# RFC 9110, section 14.1.2: the first byte, the last one, or how many from the end. Some clients write the largest
# number that they know for the end.
_RANGE = re.compile(r"([0-9]{0,30})-([0-9]{0,30})", re.ASCII)
MAX_RANGES = 100  # of one request; each is an R2 call
_MAX_HEADER = 8 * 1024  # characters


@dataclass(frozen=True, slots=True)
class ByteRange:
    """`length` bytes from `offset`; without `length` to the end."""

    offset: int
    length: int | None = None


@dataclass(frozen=True, slots=True)
class ChunkRange:
    """Where a chunk lies: from `start` (bytes) to `end` (exclusive)."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes of the chunk."""
        return self.end - self.start


def parse_chunk_range(header: str | None) -> ChunkRange | None:
    """Parse a chunk's Content-Range; raises BLOB_UPLOAD_INVALID when it is malformed."""
    if header is None:
        return None
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if match is None or int(match[2]) < int(match[1]):
        raise RegistryError(Problem.UPLOAD_INVALID, "Content-Range is <first byte>-<last byte>, for example 0-1048575")
    return ChunkRange(int(match[1]), int(match[2]) + 1)


def upload_range(offset: int) -> str:
    """The Range header for `offset` bytes received. Nothing yet is "0-0", as Docker's registry has it."""
    return f"0-{max(offset - 1, 0)}"


def parse_ranges(header: str | None, size: int) -> list[ByteRange]:
    """The parts of `size` bytes that a Range header asks for, one at least; none when the answer is all of them.

    That is right for what cannot be understood (RFC 9110, section 14.2), and for more than MAX_RANGES. Parts that
    overlap or touch become one, so that nobody gets more bytes than there are. Raises RANGE_INVALID when all of them
    begin behind the end.
    """
    if header is None or len(header) > _MAX_HEADER or not header.strip().startswith("bytes="):
        return []
    texts = [text.strip() for text in header.strip().removeprefix("bytes=").split(",")]
    matches = [_RANGE.fullmatch(text) for text in texts if text]
    if not 0 < len(matches) <= MAX_RANGES:
        return []
    spans: list[tuple[int, int]] = []
    for match in matches:
        if match is None or match.groups() == ("", ""):
            return []
        first, last = match.groups()
        if first:
            start, end = int(first), min(int(last) + 1, size) if last else size
        else:
            start, end = max(size - int(last), 0), size
        if start < end:
            spans.append((start, end))
    if not spans:
        raise RegistryError(Problem.RANGE_INVALID, headers={"Content-Range": f"bytes */{size}"})
    return [ByteRange(start, end - start) for start, end in _joined(spans)]


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """In the order in which they were asked for, unless some overlap or touch: those are joined, and all are sorted."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((start, end))
    return spans if len(joined) == len(spans) else joined


def content_range(part: ByteRange, size: int) -> str:
    """The Content-Range of an answer with `part` of `size` bytes."""
    assert part.length is not None
    return f"bytes {part.offset}-{part.offset + part.length - 1}/{size}"
