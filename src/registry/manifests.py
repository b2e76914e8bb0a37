"""Manifests of a repository: stored under their digest, and again under every tag."""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from registry import blobs, keys
from registry.errors import Problem, RegistryError
from registry.http import JSON
from registry.manifest_format import Descriptor, Manifest, parse_manifest
from registry.names import Digest, Reference, RepositoryName, Tag
from registry.platform import Platform
from registry.storage import Attributes, StoredBody, StoredObject

# Seconds. A manifest put this recently is not put again: two tags pushed in one second would make its key hot.
FRESH = 300
# R2 lets a request have 6 connections open (DESIGN section 2); one is left for what runs beside.
_IN_FLIGHT = 5

# Metadata, as SR writes it.
_HAS_SUBJECT, _SUBJECT = "hasSubject", "subjectDigest"
# Metadata of ours: what a tag points to, where the checksum does not say (sha512).
_DIGEST = "digest"


@dataclass(frozen=True, slots=True)
class Received:
    """A manifest as it came: the bytes are the truth."""

    data: bytes
    digest: Digest
    manifest: Manifest


def receive(data: bytes, content_type: str | None, reference: Reference) -> Received:
    """Check a manifest that is pushed to `reference`; raises MANIFEST_INVALID, or DIGEST_INVALID when it differs."""
    algorithm = reference.algorithm if isinstance(reference, Digest) else "sha256"
    digest = Digest(algorithm, hashlib.new(algorithm, data).hexdigest())
    if isinstance(reference, Digest) and reference != digest:
        raise RegistryError(Problem.DIGEST_INVALID, "the manifest's bytes are not those of the digest in the path")
    return Received(data, digest, parse_manifest(data, content_type))


async def put(platform: Platform, name: RepositoryName, received: Received, tags: Sequence[Tag]) -> None:
    """Store a manifest and its tags.

    Raises MANIFEST_BLOB_UNKNOWN, with nothing stored, when it refers to something that is not there.
    """
    storage = platform.storage
    key = keys.manifest(name, received.digest)
    stored, *_ = await asyncio.gather(storage.head(key), _check_references(platform, name, received.manifest))
    attributes = _attributes(received)
    if stored is None or platform.now() - stored.uploaded > FRESH:
        await storage.put(key, received.data, attributes, checksum=received.digest)
    if received.manifest.subject is not None:
        await put_referrer(platform, name, received)
    for tag in tags:
        await storage.put(keys.manifest(name, tag), received.data, attributes, checksum=received.digest)


async def put_referrer(platform: Platform, name: RepositoryName, received: Received) -> None:
    """List a manifest with the referrers of its subject."""
    assert received.manifest.subject is not None
    key = keys.referrer(name, received.manifest.subject.digest, received.digest)
    await platform.storage.put(key, json.dumps(_referrer(received)).encode(), Attributes(content_type=JSON))


def knows_subject(stored: StoredObject) -> bool:
    """Whether the stored manifest was looked at for a subject, by us or by an SR that did."""
    return _HAS_SUBJECT in stored.metadata


async def find(platform: Platform, name: RepositoryName, reference: Reference) -> StoredObject | None:
    """What is known of a manifest without its bytes."""
    return await platform.storage.head(keys.manifest(name, reference))


async def read(platform: Platform, name: RepositoryName, reference: Reference) -> StoredBody | None:
    """A manifest with its bytes."""
    return await platform.storage.get(keys.manifest(name, reference))


def digest_of(stored: StoredObject, reference: Reference) -> Digest | None:
    """The digest of a stored manifest: R2 verified the checksum when it was put."""
    return reference if isinstance(reference, Digest) else stored.checksum


def _attributes(received: Received) -> Attributes:
    subject = received.manifest.subject
    metadata = {_HAS_SUBJECT: "false"} if subject is None else {_HAS_SUBJECT: "true", _SUBJECT: str(subject.digest)}
    return Attributes(received.manifest.media_type, metadata)


def _referrer(received: Received) -> dict[str, object]:
    """The descriptor that the referrers list has of this manifest (spec, "Listing Referrers")."""
    descriptor: dict[str, object] = {
        "mediaType": received.manifest.media_type,
        "digest": str(received.digest),
        "size": len(received.data),
    }
    if received.manifest.artifact_type is not None:
        descriptor["artifactType"] = received.manifest.artifact_type
    if received.manifest.annotations:
        descriptor["annotations"] = received.manifest.annotations
    return descriptor


async def _check_references(platform: Platform, name: RepositoryName, manifest: Manifest) -> None:
    """Everything the manifest refers to is in the repository, with the size its descriptor says."""

    async def blob_size(descriptor: Descriptor) -> int | None:
        found = await blobs.find(platform, name, descriptor.digest)
        return None if found is None else found.size

    async def child_size(descriptor: Descriptor) -> int | None:
        found = await find(platform, name, descriptor.digest)
        return None if found is None else found.size

    missing = [
        *await _check_sizes(manifest.blobs, blob_size),
        *await _check_sizes(manifest.children, child_size),
    ]
    if missing:
        raise RegistryError(
            Problem.MANIFEST_BLOB_UNKNOWN, details=[{"digest": str(digest)} for digest in dict.fromkeys(missing)]
        )


async def _check_sizes(
    descriptors: Sequence[Descriptor], size_of: Callable[[Descriptor], Awaitable[int | None]]
) -> list[Digest]:
    """The digests that are missing; raises MANIFEST_INVALID for a size that is not the stored one."""
    unique = list({descriptor.digest: descriptor for descriptor in descriptors}.values())
    sizes: dict[Digest, int | None] = {}
    for at in range(0, len(unique), _IN_FLIGHT):
        batch = unique[at : at + _IN_FLIGHT]
        found = await asyncio.gather(*(size_of(descriptor) for descriptor in batch))
        sizes.update((descriptor.digest, size) for descriptor, size in zip(batch, found, strict=True))
    for descriptor in descriptors:
        stored = sizes[descriptor.digest]
        if stored is not None and descriptor.size not in (None, stored):
            raise RegistryError(
                Problem.MANIFEST_INVALID,
                f"{descriptor.path}.size is {descriptor.size}, but {descriptor.digest} has {stored} bytes",
                details=[{"path": f"{descriptor.path}.size", "digest": str(descriptor.digest)}],
            )
    return [digest for digest, size in sizes.items() if size is None]
