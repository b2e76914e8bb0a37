"""Compressing layers, on all cores."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import zstandard
from zlib_ng import gzip_ng_threaded

from registry_push.slices import Slice

LAYER = "application/vnd.oci.image.layer.v1.tar"
_GZIP_THREADS = 8  # always: which thread compressed a block shows in the result (measured: zlib-ng 1.1, level 6)
_ZSTD_THREADS = 4  # at most, for memory: the result does not depend on them
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


class Writer(Protocol):
    """Where bytes go that are to be compressed."""

    def write(self, data: bytes, /) -> int: ...


@dataclass(frozen=True, slots=True)
class Compression:
    """How layers are compressed: `kind` is gzip or zstd, `level` as the format has it."""

    kind: str = "gzip"
    level: int = 6

    def __str__(self) -> str:
        """A name for files that depend on it."""
        return f"{self.kind}-{self.level}"

    @contextmanager
    def writer(self, file: BinaryIO) -> Iterator[Writer]:
        """What is written in the block arrives in `file` compressed. Same bytes, same result, however many cores."""
        if self.kind == "zstd":
            threads = min(_ZSTD_THREADS, os.cpu_count() or 1)
            with zstandard.ZstdCompressor(level=self.level, threads=threads).stream_writer(file, closefd=False) as zstd:
                yield zstd
        else:
            with gzip_ng_threaded.open(  # type: ignore[no-untyped-call]
                file, "wb", compresslevel=self.level, threads=_GZIP_THREADS
            ) as gzip:
                yield gzip


@dataclass(frozen=True, slots=True)
class Compressed:
    """A layer as it is pushed."""

    digest: str
    size: int
    media_type: str


def kind_of(first: bytes) -> str | None:
    """How bytes that begin so are compressed, if they are."""
    return next((kind for magic, kind in _MAGIC.items() if first.startswith(magic)), None)


def compress(layer: Slice, target: Path, how: Compression, done: "Counter") -> Compressed:
    """Compress a layer into a new file; one that is compressed already is copied as it is."""
    first = next(layer.part(0, min(4, layer.size)).blocks(), b"")
    kept = kind_of(first)
    with target.open("xb") as file:
        out = _Hashing(file)
        if kept is None:
            with how.writer(out) as writer:  # type: ignore[arg-type] # it has what a compressor asks of a file
                for block in layer.blocks():
                    writer.write(block)
                    done(len(block))
        else:
            for block in layer.blocks():
                out.write(block)
                done(len(block))
    return Compressed(out.digest, out.size, f"{LAYER}+{kept or how.kind}")


class Counter(Protocol):
    """Hears how many bytes more are done."""

    def __call__(self, count: int, /) -> None: ...


class _Hashing:
    """A file that is hashed while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"
