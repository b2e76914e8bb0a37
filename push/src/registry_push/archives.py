"""Tar archives of images: the output of `docker save`, and OCI layouts in a tar.

An uncompressed archive in a file is read in place. Any other archive is a stream that can be read only once: its
members are written to scratch files, and layers stay there only until they are compressed.
"""

import hashlib
import posixpath
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, cast

from registry_push.compression import kind_of
from registry_push.failures import Misused
from registry_push.slices import BLOCK, Slice
from registry_push.untrusted_json import LARGEST_DOCUMENT, read_json

_TAR_MAGIC_AT = 257


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive, or a link: then `link` is the name of its target."""

    name: str
    content: Slice | None
    link: str | None = None


def members_of_file(path: Path, scratch: Path) -> Iterator[Member]:
    """The members of an archive file, which may be compressed."""
    try:
        archive = tarfile.open(path, "r:")  # noqa: SIM115 - closed below
    except tarfile.ReadError:
        with path.open("rb") as file:
            yield from members_of_stream(file, scratch)
        return
    with archive, _tar_errors_explained():
        yield from _members(archive, lambda info: Slice(path, info.offset_data, info.size))


def members_of_stream(stream: Readable, scratch: Path) -> Iterator[Member]:
    """The members of an archive that can be read only once."""

    def spool(info: tarfile.TarInfo) -> Slice:
        target = scratch / hashlib.sha256(info.name.encode()).hexdigest()
        source = archive.extractfile(info)
        assert source is not None
        with target.open("wb") as file:
            shutil.copyfileobj(source, file, BLOCK)
        return Slice(target, 0, info.size)

    with _tar_errors_explained(), tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|*") as archive:
        yield from _members(archive, spool)


@contextmanager
def _tar_errors_explained() -> Iterator[None]:
    """Raise Misused in place of the errors of tarfile."""
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise Misused(f"the source is not a tar archive, or it is incomplete ({error})") from None


def _members(archive: tarfile.TarFile, content_of: Callable[[tarfile.TarInfo], Slice]) -> Iterator[Member]:
    for info in archive:
        name = posixpath.normpath(info.name)
        if info.issym():
            yield Member(name, None, posixpath.normpath(posixpath.join(posixpath.dirname(name), info.linkname)))
        elif info.islnk():
            yield Member(name, None, posixpath.normpath(info.linkname))
        elif info.isfile():
            yield Member(name, content_of(info))


class Contents:
    """The files of an archive, by name. With `prepare`, each layer is prepared as it arrives and its file removed."""

    def __init__(self, members: Iterator[Member], prepare: Callable[[Slice], Any] | None = None) -> None:
        self.prepared: dict[str, Any] = {}
        self._slices: dict[str, Slice] = {}
        self._links: dict[str, str] = {}
        for member in members:
            if member.link is not None:
                self._links[member.name] = member.link
            elif member.content is not None and prepare is not None and _is_layer(member.content):
                self.prepared[member.name] = prepare(member.content)
                member.content.path.unlink()
            elif member.content is not None:
                self._slices[member.name] = member.content

    def resolve(self, name: str) -> str:
        """The name of the file that `name` refers to, through any links."""
        name = posixpath.normpath(name)
        for _ in range(len(self._links)):
            name = self._links.get(name, name)
        return name

    def find(self, name: str) -> Slice | None:
        """The bytes of a member; None when the archive has no such member."""
        return self._slices.get(self.resolve(name))

    def find_blob(self, digest: str) -> Slice | None:
        """The bytes of a blob of an OCI layout; None when the layout lacks it."""
        return self.find(blob_path(digest))

    def document(self, name: str) -> Any:
        """A JSON document; None when the archive has no member of that name."""
        found = self.find(name)
        if found is None:
            return None
        return parse_document(name, found)


def blob_path(digest: str) -> str:
    """The path of a blob in an OCI layout."""
    return "blobs/" + digest.replace(":", "/")


def parse_document(name: str, content: Slice) -> Any:
    """A JSON document of an archive or layout; raises Misused when it is too large or malformed."""
    if content.size > LARGEST_DOCUMENT:
        raise Misused(f"{name} has {content.size} bytes: too many for a JSON document of an image")
    try:
        return read_json(content.read())
    except ValueError as error:
        raise Misused(f"{name} is not a JSON document of an image ({error})") from None


def _is_layer(content: Slice) -> bool:
    first = content.part(0, min(512, content.size)).read()
    return kind_of(first) is not None or first[_TAR_MAGIC_AT:].startswith(b"ustar")
