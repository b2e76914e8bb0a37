"""Byte ranges on the wire, where ends are inclusive; inside, they are half-open."""

import re
from dataclasses import dataclass

from registry.errors import Problem, RegistryError
from registry.storage import ByteRange

# Spec, "Pushing a blob in chunks": <range> MUST match this. 15 digits: more bytes than an R2 object can have.
_CONTENT_RANGE = re.compile(r"([0-9]{1,15})-([0-9]{1,15})", re.ASCII)
# RFC 9110, section 14.1.2: one range; the first byte, the last one, or how many from the end.
_RANGE = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})", re.ASCII)


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


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """The part of `size` bytes that a Range header asks for; None when the answer is all of them.

    All is right for several ranges and for what cannot be understood (RFC 9110, section 14.2). Raises RANGE_INVALID for
    what begins behind the end.
    """
    match = None if header is None else _RANGE.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(size - int(last), 0), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
    if start >= end:
        raise RegistryError(Problem.RANGE_INVALID, headers={"Content-Range": f"bytes */{size}"})
    return ByteRange(start, end - start)


def content_range(part: ByteRange, size: int) -> str:
    """The Content-Range of an answer with `part` of `size` bytes."""
    assert part.length is not None
    return f"bytes {part.offset}-{part.offset + part.length - 1}/{size}"
