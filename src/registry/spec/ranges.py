"""Byte ranges. In HTTP headers their end is inclusive; in the code it is exclusive."""

import re
from dataclasses import dataclass

from registry.spec.errors import Problem, RegistryError

# Spec, "Pushing a blob in chunks": <range> MUST match this. 15 digits: more bytes than an R2 object can have.
_CONTENT_RANGE = re.compile(r"([0-9]{1,15})-([0-9]{1,15})", re.ASCII)
# RFC 9110, section 14.1.2: first and last byte, or a number of bytes at the end. Some clients send the largest number
# they can represent as the last byte.
_RANGE = re.compile(r"([0-9]{0,30})-([0-9]{0,30})", re.ASCII)
MAX_RANGES = 100  # of one request; each is an R2 call
_MAX_HEADER = 8 * 1024  # characters


@dataclass(frozen=True, slots=True)
class ByteRange:
    """`length` bytes from `offset`; without `length`, all bytes from there to the end."""

    offset: int
    length: int | None = None


@dataclass(frozen=True, slots=True)
class ChunkRange:
    """The place of a chunk in its blob: from `start` (bytes) to `end` (exclusive)."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes of the chunk."""
        return self.end - self.start


def parse_chunk_range(header: str | None) -> ChunkRange | None:
    """Parse the Content-Range of a chunk. Raises BLOB_UPLOAD_INVALID when it is malformed."""
    if header is None:
        return None
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if match is None or int(match[2]) < int(match[1]):
        raise RegistryError(Problem.UPLOAD_INVALID, "Content-Range must be <first byte>-<last byte>, as in 0-1048575")
    return ChunkRange(int(match[1]), int(match[2]) + 1)


def upload_range(offset: int) -> str:
    """The Range header of an upload session with `offset` bytes; "0-0" without any byte, as in Docker's registry."""
    return f"0-{max(offset - 1, 0)}"


def parse_ranges(header: str | None, size: int) -> list[ByteRange]:
    """The ranges of `size` bytes that a Range header selects; empty when the answer is the whole content.

    The answer is the whole content for a header that cannot be parsed (RFC 9110, section 14.2), and for more than
    MAX_RANGES. Ranges that overlap or touch are merged, so that an answer never repeats a byte. Raises RANGE_INVALID
    when all ranges begin after the end.
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
    """The spans in the requested order; but if some overlap or touch, those are merged and all are sorted."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((start, end))
    return spans if len(joined) == len(spans) else joined


def content_range(part: ByteRange, size: int) -> str:
    """The Content-Range header of an answer with the range `part` of `size` bytes."""
    assert part.length is not None
    return f"bytes {part.offset}-{part.offset + part.length - 1}/{size}"
