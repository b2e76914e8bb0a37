"""Compresses layers on all cores."""

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
_GZIP_THREADS = 8  # fixed, since the compressed bytes depend on the number of threads (measured: zlib-ng 1.1, level 6)
_ZSTD_THREADS = 4  # at most, to bound memory; the compressed bytes do not depend on the number
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


class Writer(Protocol):
    """Takes the bytes to compress."""

    def write(self, data: bytes, /) -> int: ...


@dataclass(frozen=True, slots=True)
class Compression:
    """How to compress layers: `kind` is gzip or zstd, `level` a level of that format."""

    kind: str = "gzip"
    level: int = 6

    def __str__(self) -> str:
        """The part of a cache subject that tells compressions apart."""
        return f"{self.kind}-{self.level}"

    @contextmanager
    def writer(self, file: BinaryIO) -> Iterator[Writer]:
        """A writer that compresses into `file`. The same input gives the same output on any number of cores."""
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
    """The descriptor of a compressed layer."""

    digest: str
    size: int
    media_type: str


def kind_of(first: bytes) -> str | None:
    """The compression of data that begins with `first`: gzip, zstd or None."""
    return next((kind for magic, kind in _MAGIC.items() if first.startswith(magic)), None)


def compress(layer: Slice, target: Path, how: Compression, done: "Counter") -> Compressed:
    """Compress a layer into a new file, or copy a layer that is already compressed; `done` counts the bytes read."""
    first = next(layer.part(0, min(4, layer.size)).blocks(), b"")
    kept = kind_of(first)
    with target.open("xb") as file:
        out = _Hashing(file)
        if kept is None:
            with how.writer(out) as writer:  # type: ignore[arg-type] # a compressor needs no more of a file
                for block in layer.blocks():
                    writer.write(block)
                    done(len(block))
        else:
            for block in layer.blocks():
                out.write(block)
                done(len(block))
    return Compressed(out.digest, out.size, f"{LAYER}+{kept or how.kind}")


class Counter(Protocol):
    """Is called with the number of further bytes that are done."""

    def __call__(self, count: int, /) -> None: ...


class _Hashing:
    """Hashes a file while it is written."""

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
