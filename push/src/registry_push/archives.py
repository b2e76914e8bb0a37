"""Tar archives of images: what `docker save` writes, and OCI layouts in a tar.

The archive of a file that is not compressed is read in place. Anything else is a stream that comes once: its members go
to scratch files, large layers only until they are compressed.
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
from typing import IO, Any

from registry_push.compression import kind_of
from registry_push.failures import Misused
from registry_push.slices import BLOCK, Slice
from registry_push.untrusted_json import LARGEST_DOCUMENT, read_json

_TAR_MAGIC_AT = 257


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive, or another name (`link`) for one."""

    name: str
    content: Slice | None
    link: str | None = None


def members_of_file(path: Path, scratch: Path) -> Iterator[Member]:
    """The members of an archive in a file, which may be compressed."""
    try:
        archive = tarfile.open(path, "r:")  # noqa: SIM115 - closed below
    except tarfile.ReadError:
        with path.open("rb") as file:
            yield from members_of_stream(file, scratch)
        return
    with archive, _whole():
        yield from _members(archive, lambda info: Slice(path, info.offset_data, info.size))


def members_of_stream(stream: IO[bytes], scratch: Path) -> Iterator[Member]:
    """The members of an archive that comes once."""

    def spool(info: tarfile.TarInfo) -> Slice:
        target = scratch / hashlib.sha256(info.name.encode()).hexdigest()
        source = archive.extractfile(info)
        assert source is not None
        with target.open("wb") as file:
            shutil.copyfileobj(source, file, BLOCK)
        return Slice(target, 0, info.size)

    with _whole(), tarfile.open(fileobj=stream, mode="r|*") as archive:
        yield from _members(archive, spool)


@contextmanager
def _whole() -> Iterator[None]:
    """Explain what tarfile complains of."""
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise Misused(f"this is no tar archive, or it is not whole ({error})") from None


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
    """What an archive holds, by name. With `prepare`, layers are prepared as they come, and their bytes let go."""

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
        """The name under which the bytes are, when `name` is a link."""
        name = posixpath.normpath(name)
        for _ in range(len(self._links)):
            name = self._links.get(name, name)
        return name

    def find(self, name: str) -> Slice | None:
        """The bytes of a member."""
        return self._slices.get(self.resolve(name))

    def find_blob(self, digest: str) -> Slice | None:
        """The bytes of a blob of an OCI layout."""
        return self.find(blob_path(digest))

    def document(self, name: str) -> Any:
        """A JSON document; None when there is none of that name."""
        found = self.find(name)
        if found is None:
            return None
        return parse_document(name, found)


def blob_path(digest: str) -> str:
    """Where a blob lies in an OCI layout."""
    return "blobs/" + digest.replace(":", "/")


def parse_document(name: str, content: Slice) -> Any:
    """A JSON document of an archive or layout; raises Misused when it is none."""
    if content.size > LARGEST_DOCUMENT:
        raise Misused(f"{name} has {content.size} bytes: too many for what it should be")
    try:
        return read_json(content.read())
    except ValueError as error:
        raise Misused(f"{name} is no JSON document of an image ({error})") from None


def _is_layer(content: Slice) -> bool:
    first = content.part(0, min(512, content.size)).read()
    return kind_of(first) is not None or first[_TAR_MAGIC_AT:].startswith(b"ustar")
