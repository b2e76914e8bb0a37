"""What a manifest says: parsed to be checked, never to be written again. The received bytes are what is stored.

Image manifests, image indexes (OCI image spec), artifact manifests (its 1.1 release candidates), Docker's schema 2
manifests and lists, and schema 1 as SR takes it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from registry.errors import Problem, RegistryError
from registry.names import Digest, parse_digest

MAX_MANIFEST_SIZE = 4 * 1024 * 1024  # bytes; spec, "Pushing Manifests": at least 4 megabytes SHOULD be possible

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
# What other registries are asked for: whatever they have. Schema 1 they would make of something better.
PULLED_TYPES = (OCI_INDEX, OCI_MANIFEST, _DOCKER_LIST, _DOCKER_MANIFEST)
_OCI_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+json"
# Layers of these types may lie elsewhere (image spec, layer.md, "Non-Distributable Layers"; Docker's foreign layers).
_FOREIGN_LAYERS = ("application/vnd.oci.image.layer.nondistributable.", "application/vnd.docker.image.rootfs.foreign.")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A reference to content. `path` is its place in the document, for messages."""

    media_type: str
    digest: Digest
    size: int | None  # bytes; schema 1 has none
    path: str

    @property
    def may_lie_elsewhere(self) -> bool:
        """Whether it need not be in the repository. It is referred to all the same: what was pushed stays."""
        return self.media_type.startswith(_FOREIGN_LAYERS)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is checked and indexed of a manifest."""

    media_type: str
    all_blobs: tuple[Descriptor, ...]  # config and layers
    children: tuple[Descriptor, ...]  # manifests of an index
    subject: Descriptor | None
    artifact_type: str | None  # as listed by referrers
    annotations: dict[str, str]

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Config and layers that must be in the repository."""
        return tuple(blob for blob in self.all_blobs if not blob.may_lie_elsewhere)


def parse_manifest(data: bytes, content_type: str | None) -> Manifest:
    """Parse a manifest that was sent with this Content-Type; raises MANIFEST_INVALID naming the JSON path."""
    document = _Json(_load(data), "")
    declared = document.optional_text("mediaType")
    sent = content_type.partition(";")[0].strip().lower() if content_type else None
    if declared and sent and declared != sent:
        raise _invalid("mediaType", f"is not the Content-Type {sent}")
    # containerd and CVE-2021-41190: what can be read as two kinds must not be accepted as either.
    if document.has("manifests") and (document.has("layers") or document.has("config")):
        raise _invalid("manifests", "stands beside layers or config: a document is a manifest or an index, not both")
    if document.value.get("schemaVersion") == 1:
        return _schema_1(document, declared or sent)
    if document.value.get("schemaVersion") != 2 and (declared or sent) != _OCI_ARTIFACT:
        raise _invalid("schemaVersion", "is not 2")
    subject = document.get("subject")
    artifact_type = document.optional_text("artifactType")
    blobs: list[Descriptor] = []
    children: list[Descriptor] = []
    if document.has("manifests"):
        default = OCI_INDEX
        children = [item.descriptor() for item in document.items("manifests")]
    elif (declared or sent) == _OCI_ARTIFACT:
        default = _OCI_ARTIFACT
        blobs = [item.descriptor() for item in document.items("blobs", required=False)]
    else:
        default = OCI_MANIFEST
        config = document.required("config").descriptor()
        artifact_type = artifact_type or config.media_type
        blobs = [config, *(item.descriptor() for item in document.items("layers"))]
    return Manifest(
        declared or sent or default,
        tuple(blobs),
        tuple(children),
        None if subject is None else subject.descriptor(),
        artifact_type,
        document.annotations(),
    )


def _schema_1(document: "_Json", media_type: str | None) -> Manifest:
    blobs = tuple(
        Descriptor("", item.digest("blobSum"), None, f"{item.path}.blobSum") for item in document.items("fsLayers")
    )
    return Manifest(media_type or _SCHEMA_1, blobs, (), None, None, {})


def _invalid(path: str, reason: str) -> RegistryError:
    return RegistryError(Problem.MANIFEST_INVALID, f"{path or 'the manifest'} {reason}", details=[{"path": path}])


def _load(data: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        return json.loads(data.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError):
        raise _invalid("", "is not JSON in UTF-8") from None


class _Json:
    """A JSON object and the path to it, so that every complaint names its place."""

    def __init__(self, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise _invalid(path, "is not a JSON object")
        self.value: dict[str, Any] = value
        self.path = path

    def _at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def has(self, key: str) -> bool:
        # Go's clients write null for an empty list.
        return self.value.get(key) is not None

    def get(self, key: str) -> "_Json | None":
        return _Json(self.value[key], self._at(key)) if self.has(key) else None

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
            yield _Json(item, f"{self._at(key)}[{index}]")

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
            raise _invalid(self._at(key), f"is no digest: {error.message}") from None

    def descriptor(self) -> Descriptor:
        """Image spec, descriptor.md: media type, digest and size are REQUIRED."""
        size = self.value.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise _invalid(self._at("size"), "is not a number of bytes")
        return Descriptor(self.text("mediaType"), self.digest("digest"), size, self.path)

    def annotations(self) -> dict[str, str]:
        found = self.get("annotations")
        if found is None:
            return {}
        for key, value in found.value.items():
            if not isinstance(value, str):
                raise _invalid(f"annotations[{json.dumps(key)}]", "is not a string")
        return found.value
