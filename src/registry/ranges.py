"""Byte ranges of uploads on the wire, where ends are inclusive; inside, they are half-open."""

import re
from dataclasses import dataclass

from registry.errors import Problem, RegistryError

# Spec, "Pushing a blob in chunks": <range> MUST match this. 15 digits: more bytes than an R2 object can have.
_CONTENT_RANGE = re.compile(r"([0-9]{1,15})-([0-9]{1,15})", re.ASCII)


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
