"""The images to push: their manifests, byte for byte, and the files that hold their blobs."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from registry_push.failures import Misused
from registry_push.references import DIGEST
from registry_push.slices import Slice
from registry_push.untrusted_json import LARGEST_DOCUMENT, read_json

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
_INDEXES = frozenset({INDEX, "application/vnd.docker.distribution.manifest.list.v2+json"})
_MANIFESTS = frozenset({MANIFEST, "application/vnd.docker.distribution.manifest.v2+json"})
_DEEPEST = 8  # indexes within indexes
# Manifests of one image. One that several indexes name counts several times: else a few files could name each other
# millions of times.
_MOST_MANIFESTS = 1000
_MOST_BYTES = 64 * 1024 * 1024  # of all manifests, which are kept in memory


@dataclass(frozen=True, slots=True)
class Blob:
    """A config or layer, and the file that holds its bytes."""

    digest: str
    content: Slice

    def is_sound(self) -> bool:
        """Whether the bytes match the digest; algorithms other than sha256 and sha512 are not checked."""
        algorithm = self.digest.partition(":")[0]
        return algorithm not in ("sha256", "sha512") or self.content.digest(algorithm) == self.digest


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image manifest or index; `children` are the manifests of an index, `blobs` the blobs of an image."""

    media_type: str
    content: bytes
    children: tuple["Manifest", ...] = ()
    blobs: tuple[Blob, ...] = ()

    @property
    def digest(self) -> str:
        """The sha256 digest of the content."""
        return digest_of(self.content)

    def all_blobs(self) -> Iterator[Blob]:
        """The blobs of this manifest and of its children; a shared blob comes several times."""
        yield from self.blobs
        for child in self.children:
            yield from child.all_blobs()


def digest_of(content: bytes) -> str:
    """The sha256 digest of bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def read_manifest(descriptor: Mapping[str, Any], find: Callable[[str], Slice | None]) -> Manifest:
    """Read the image or index that a descriptor of an OCI layout names; `find` returns the bytes of a blob.

    Raises Misused when the layout is incomplete, since the pushed image could not be pulled.
    """
    return _Reader(find).read(descriptor, 0)


class _Reader:
    """Reads the manifests of one image, within the limits on their number and size."""

    def __init__(self, find: Callable[[str], Slice | None]) -> None:
        self._find = find
        self._manifests_left = _MOST_MANIFESTS
        self._bytes_left = _MOST_BYTES

    def read(self, descriptor: Mapping[str, Any], depth: int) -> Manifest:
        """Read a manifest and the manifests that it names; `depth` is the number of indexes above it."""
        digest = str(descriptor["digest"])
        content = self._content(digest)
        document = read_json(content)
        media_type = str(document.get("mediaType") or descriptor.get("mediaType") or MANIFEST)
        if media_type in _INDEXES:
            if depth > _DEEPEST:
                raise Misused(f"the image has more than {_DEEPEST} indexes nested within each other")
            children = tuple(self.read(each, depth + 1) for each in document.get("manifests") or [])
            return Manifest(media_type, content, children=children)
        if media_type not in _MANIFESTS:
            raise Misused(f"cannot push a manifest of the media type {media_type}: it is neither an image nor an index")
        parts = [document["config"], *document["layers"]]
        digests = dict.fromkeys(str(each["digest"]) for each in parts if not each.get("urls"))
        return Manifest(media_type, content, blobs=tuple(Blob(each, _needed(self._find, each)) for each in digests))

    def _content(self, digest: str) -> bytes:
        found = _needed(self._find, digest)
        self._manifests_left -= 1
        self._bytes_left -= found.size
        if self._manifests_left < 0 or self._bytes_left < 0:
            raise Misused(
                f"the image has more than {_MOST_MANIFESTS} manifests, or they have more than {_MOST_BYTES} bytes"
            )
        if found.size > LARGEST_DOCUMENT:
            raise Misused(f"the manifest {digest} has {found.size} bytes; at most {LARGEST_DOCUMENT} can be pushed")
        content = found.read()
        if digest.startswith("sha256:") and digest_of(content) != digest:
            raise Misused(f"the bytes of the manifest {digest} do not match its digest: the layout is damaged")
        return content


def make_manifest(config: Blob, layers: list[tuple[Blob, str]]) -> Manifest:
    """An image manifest for a config and for layers with their media types."""
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _descriptor(config, CONFIG),
        "layers": [_descriptor(blob, media_type) for blob, media_type in layers],
    }
    blobs = {blob.digest: blob for blob in [config, *(blob for blob, _ in layers)]}
    return Manifest(MANIFEST, json.dumps(document).encode(), blobs=tuple(blobs.values()))


def _descriptor(blob: Blob, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.content.size}


def _needed(find: Callable[[str], Slice | None], digest: str) -> Slice:
    if DIGEST.fullmatch(digest) is None:
        raise Misused(f"{digest!r} is not a digest")
    found = find(digest)
    if found is None:
        raise Misused(f"the layout has no blob {digest}: an image without it could not be pulled")
    return found
