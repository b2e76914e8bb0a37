"""A run of bytes in a file: what is uploaded and compressed is never whole in memory."""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from registry_push.failures import Failure

BLOCK = 256 * 1024  # bytes read at a time


@dataclass(frozen=True, slots=True)
class Slice:
    """`size` bytes of the file at `path`, from `start` on."""

    path: Path
    start: int
    size: int

    def part(self, start: int, size: int) -> "Slice":
        """Some of it; `start` counts from its beginning."""
        return Slice(self.path, self.start + start, size)

    def blocks(self) -> Iterator[bytes]:
        """Its bytes; raises Failure when the file ends before them."""
        left = self.size
        with self.path.open("rb") as file:
            file.seek(self.start)
            while left:
                block = file.read(min(BLOCK, left))
                if not block:
                    raise Failure(f"{self.path} became shorter while it was read")
                left -= len(block)
                yield block

    def read(self) -> bytes:
        """All of it, where that is little."""
        return b"".join(self.blocks())

    def digest(self, algorithm: str = "sha256") -> str:
        """The digest of its bytes."""
        hashing = hashlib.new(algorithm)
        for block in self.blocks():
            hashing.update(block)
        return f"{algorithm}:{hashing.hexdigest()}"

    async def stream(self, sent: Callable[[int], None]) -> AsyncIterator[bytes]:
        """Its bytes as the body of a request; `sent` hears how many were passed on."""
        for block in self.blocks():
            yield block
            sent(len(block))


def whole(path: Path) -> Slice:
    """All of a file."""
    return Slice(path, 0, path.stat().st_size)
