"""A range of bytes in a file, so that layers are never whole in memory."""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from registry_push.failures import Failure

BLOCK = 256 * 1024  # bytes read at a time


@dataclass(frozen=True, slots=True)
class Slice:
    """`size` bytes of the file at `path`, beginning at `start`."""

    path: Path
    start: int
    size: int

    def part(self, start: int, size: int) -> "Slice":
        """A part of this slice; `start` is relative to it."""
        return Slice(self.path, self.start + start, size)

    def blocks(self) -> Iterator[bytes]:
        """The bytes in blocks; raises Failure when the file is too short."""
        left = self.size
        with self.path.open("rb") as file:
            file.seek(self.start)
            while left:
                block = file.read(min(BLOCK, left))
                if not block:
                    raise Failure(f"{self.path} became shorter while it was read: try again when nothing writes to it")
                left -= len(block)
                yield block

    def read(self) -> bytes:
        """All bytes at once, for small slices."""
        return b"".join(self.blocks())

    def digest(self, algorithm: str = "sha256") -> str:
        """The digest of the bytes."""
        hashing = hashlib.new(algorithm)
        for block in self.blocks():
            hashing.update(block)
        return f"{algorithm}:{hashing.hexdigest()}"

    async def stream(self, sent: Callable[[int], None]) -> AsyncIterator[bytes]:
        """The bytes as a request body; `sent` is called with the number of bytes of each block."""
        for block in self.blocks():
            yield block
            sent(len(block))


def whole(path: Path) -> Slice:
    """The slice of a whole file."""
    return Slice(path, 0, path.stat().st_size)
