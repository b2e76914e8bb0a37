"""Parser for manifests, for checks and indexing. A manifest is never serialized: the received bytes are stored.

It takes image manifests and image indexes (OCI image spec), artifact manifests (its 1.1 release candidates), Docker's
schema 2 manifests and lists, and schema 1 as serverless-registry does.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from registry.spec.errors import Problem, RegistryError
from registry.spec.names import Digest, parse_digest
from registry.spec.untrusted_json import MAX_DEPTH, read_json

MAX_MANIFEST_SIZE = 4 * 1024 * 1024  # bytes; spec, "Pushing Manifests": at least 4 megabytes SHOULD be possible

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
# The types to request from an upstream registry. Schema 1 is left out: a registry may convert newer manifests to it.
PULLED_TYPES = (OCI_INDEX, OCI_MANIFEST, _DOCKER_LIST, _DOCKER_MANIFEST)
_OCI_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+json"
_SCHEMA_1_TYPES = (_SCHEMA_1, "application/vnd.docker.distribution.manifest.v1+prettyjws")
# Types of documents with a list `manifests`, and types of documents without one. Two clients would see two different
# images in a document of one kind that has a type of the other (CVE-2021-41190).
_INDEX_TYPES = frozenset({OCI_INDEX, _DOCKER_LIST})
_MANIFEST_TYPES = frozenset({OCI_MANIFEST, _DOCKER_MANIFEST, _OCI_ARTIFACT, *_SCHEMA_1_TYPES})
_CONFIG_TYPES = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
)
# The types that a manifest may have. Browsers neither show nor run them. RFC 6838 has the characters.
_MEDIA_TYPE = re.compile(r"application/vnd\.[a-z0-9!#$&^_.+-]{1,100}\+(?:json|prettyjws)", re.ASCII | re.IGNORECASE)
# The type that a client sends when it does not know the manifest's: then the member mediaType decides.
_ANY_JSON = "application/json"
# Layers of these types need not be in the registry (image spec, "Non-Distributable Layers"; Docker's foreign layers).
_FOREIGN_LAYERS = ("application/vnd.oci.image.layer.nondistributable.", "application/vnd.docker.image.rootfs.foreign.")
_SHOWN = 60  # characters of a name, in a message
# The member names of manifests and descriptors in the specifications. Clients in Go read "Layers" as "layers"
# (encoding/json ignores case), other clients do not.
_NAMES = {
    name.casefold(): name
    for name in (
        *("schemaVersion", "mediaType", "artifactType", "config", "layers", "blobs", "manifests", "subject"),
        *("annotations", "digest", "size", "urls", "data", "platform", "fsLayers", "blobSum"),
        *("os", "architecture", "variant", "os.version", "os.features", "features"),
        *("history", "name", "tag", "signatures"),
    )
}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A reference to content. `path` is its place in the document, for messages."""

    media_type: str
    digest: Digest
    size: int | None  # bytes; schema 1 and some old images have none
    path: str

    @property
    def may_lie_elsewhere(self) -> bool:
        """Whether the blob need not be in the repository. Garbage collection keeps it nevertheless, if it is there."""
        return self.media_type.startswith(_FOREIGN_LAYERS)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The parts of a manifest that are checked and indexed."""

    media_type: str
    all_blobs: tuple[Descriptor, ...]  # config and layers
    children: tuple[Descriptor, ...]  # manifests of an index
    subject: Descriptor | None
    artifact_type: str | None  # for the referrers API
    annotations: dict[str, str]

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Config and layers that must be in the repository."""
        return tuple(blob for blob in self.all_blobs if not blob.may_lie_elsewhere)


def is_media_type(text: str | None) -> bool:
    """Whether a manifest may have this media type: OCI's, Docker's, and others of the form application/vnd.…+json."""
    return text is not None and _MEDIA_TYPE.fullmatch(text) is not None


def parse_manifest(data: bytes, content_type: str | None) -> Manifest:
    """Parse a manifest that was pushed with this Content-Type. Raises MANIFEST_INVALID with the JSON path."""
    sent = content_type.partition(";")[0].strip().lower() if content_type else None
    if sent == _ANY_JSON:
        sent = None
    if sent and not is_media_type(sent):
        raise RegistryError(
            Problem.MANIFEST_INVALID,
            f"the Content-Type is not a manifest's: send the media type of the manifest, for example {OCI_MANIFEST}",
        )
    document = _Json(_load(data), "")
    declared = document.optional_text("mediaType")
    if declared and sent and declared.lower() != sent:
        raise _invalid("mediaType", f"is not the Content-Type {sent}")
    if declared and not is_media_type(declared):
        raise _invalid("mediaType", "is not a manifest's media type, which has the form application/vnd.….+json")
    return _parse(document, declared or sent)


def parse_stored(data: bytes, content_type: str | None) -> Manifest:
    """Parse a manifest from the bucket or an upstream registry. Leaves out the checks that only a push needs.

    A media type that no manifest may have is ignored. Raises MANIFEST_INVALID.
    """
    document = _Json(_load(data), "", is_pushed=False)
    declared = document.value.get("mediaType")
    for media_type in (content_type, declared):
        if isinstance(media_type, str) and is_media_type(media_type):
            return _parse(document, media_type.lower())
    return _parse(document, None)


def _parse(document: "_Json", media_type: str | None) -> Manifest:
    _check_kind(document, media_type)
    if document.value.get("schemaVersion") == 1:
        return _schema_1(document, media_type)
    subject = document.get("subject")
    artifact_type = document.optional_text("artifactType")
    blobs: list[Descriptor] = []
    children: list[Descriptor] = []
    if document.has("manifests"):
        default = OCI_INDEX
        for item in document.items("manifests"):
            descriptor = item.descriptor()
            if document.is_pushed:
                item.get("platform")  # checks its member names: they decide which image a client pulls
            (blobs if _is_blob(descriptor.media_type) else children).append(descriptor)
    elif media_type == _OCI_ARTIFACT:
        default = _OCI_ARTIFACT
        blobs = [item.descriptor() for item in document.items("blobs", required=False)]
    else:
        default = OCI_MANIFEST
        config = document.required("config").descriptor()
        artifact_type = artifact_type or config.media_type
        blobs = [config, *(item.descriptor() for item in document.items("layers", required=False))]
    return Manifest(
        media_type or default,
        tuple(blobs),
        tuple(children),
        None if subject is None else subject.descriptor(),
        artifact_type,
        document.annotations(),
    )


def _check_kind(document: "_Json", media_type: str | None) -> None:
    """Raise MANIFEST_INVALID for a document that can be read as two kinds of manifest (CVE-2021-41190)."""
    version = document.value.get("schemaVersion")
    if isinstance(version, bool):
        raise _invalid("schemaVersion", "is not 2")
    if document.has("manifests") and (document.has("layers") or document.has("config")):
        raise _invalid("manifests", "is beside layers or config: a document is either a manifest or an index")
    if document.is_pushed and media_type in (_MANIFEST_TYPES if document.has("manifests") else _INDEX_TYPES):
        raise _invalid("mediaType", f"is {media_type}, which does not match the members: only an index has manifests")
    is_of_others = any(map(document.has, ("config", "layers", "manifests")))
    if version == 1 and (media_type not in (None, *_SCHEMA_1_TYPES) or is_of_others):
        raise _invalid("schemaVersion", "is 1, but the media type or the members are those of version 2")
    if media_type == _OCI_ARTIFACT and is_of_others:
        raise _invalid("blobs", "is the list that an artifact manifest has, instead of config, layers or manifests")
    if version not in (1, 2) and media_type != _OCI_ARTIFACT:
        raise _invalid("schemaVersion", "is not 2")


def _is_blob(media_type: str) -> bool:
    """Whether an entry of an index is a blob, not a manifest: BuildKit's cache is an index of layers and a config."""
    return bool(media_type) and (not is_media_type(media_type) or media_type in _CONFIG_TYPES)


def _schema_1(document: "_Json", media_type: str | None) -> Manifest:
    blobs = tuple(
        Descriptor("", item.digest("blobSum"), None, f"{item.path}.blobSum") for item in document.items("fsLayers")
    )
    return Manifest(media_type or _SCHEMA_1, blobs, (), None, None, {})


def _invalid(path: str, reason: str) -> RegistryError:
    return RegistryError(Problem.MANIFEST_INVALID, f"{path or 'the manifest'} {reason}", details=[{"path": path}])


def _load(data: bytes) -> Any:
    try:
        return read_json(data, MAX_MANIFEST_SIZE, MAX_DEPTH)
    except ValueError as error:
        raise _invalid("", str(error)) from None


class _Json:
    """A JSON object and its path in the document, which error messages name.

    In a pushed manifest, member names must be spelled exactly as in the specification.
    """

    def __init__(self, value: Any, path: str, *, is_pushed: bool = True) -> None:
        if not isinstance(value, dict):
            raise _invalid(path, "is not a JSON object")
        self.value: dict[str, Any] = value
        self.path = path
        self.is_pushed = is_pushed
        for name in value if is_pushed else ():
            if _NAMES.get(name.casefold(), name) != name:
                raise _invalid(
                    path, f"has {json.dumps(name[:_SHOWN])}, which some clients read as {_NAMES[name.casefold()]}"
                )

    def _at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def has(self, key: str) -> bool:
        # Go's clients write null for an empty list.
        return self.value.get(key) is not None

    def get(self, key: str) -> "_Json | None":
        return _Json(self.value[key], self._at(key), is_pushed=self.is_pushed) if self.has(key) else None

    def required(self, key: str) -> "_Json":
        found = self.get(key)
        if found is None:
            raise _invalid(self._at(key), "is missing")
        return found

    def items(self, key: str, *, required: bool = True) -> Iterator["_Json"]:
        if required and key not in self.value:
            raise _invalid(self._at(key), "is missing")
        items = self.value.get(key)
        if items is None:
            items = []
        if not isinstance(items, list):
            raise _invalid(self._at(key), "is not an array")
        for index, item in enumerate(items):
            yield _Json(item, f"{self._at(key)}[{index}]", is_pushed=self.is_pushed)

    def optional_text(self, key: str) -> str | None:
        value = self.value.get(key)
        if value is not None and not isinstance(value, str):
            raise _invalid(self._at(key), "is not a string")
        return value or None

    def text(self, key: str) -> str:
        value = self.optional_text(key)
        if value is None:
            raise _invalid(self._at(key), "is missing")
        return value

    def digest(self, key: str) -> Digest:
        try:
            return parse_digest(self.text(key))
        except RegistryError as error:
            if error.problem is Problem.MANIFEST_INVALID:
                raise
            raise _invalid(self._at(key), f"is not a digest: {error.message}") from None

    def descriptor(self) -> Descriptor:
        """Image spec, descriptor.md: media type, digest and size are REQUIRED; old images have only the digest."""
        size = self.value.get("size")
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
            raise _invalid(self._at("size"), "is not a number of bytes")
        return Descriptor(self.optional_text("mediaType") or "", self.digest("digest"), size, self.path)

    def annotations(self) -> dict[str, str]:
        found = self.value.get("annotations")
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise _invalid(self._at("annotations"), "is not a JSON object")
        for key, value in found.items():
            if value is not None and not isinstance(value, str):
                raise _invalid(f"annotations[{json.dumps(key[:_SHOWN])}]", "is not a string")
        return {key: value for key, value in found.items() if value is not None}
