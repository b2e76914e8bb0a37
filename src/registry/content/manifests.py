"""Manifests of a repository: each is stored under its digest, and again under each tag."""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from registry.content import gc_register
from registry.content.referrers import make_entry
from registry.ports.platform import Platform
from registry.ports.storage import ABSENT, Attributes, Content, NotAfter, StoredBody, StoredObject
from registry.spec.errors import Problem, RegistryError
from registry.spec.manifest_format import Manifest, is_media_type, parse_manifest, parse_stored
from registry.spec.manifest_references import References, pack, references_of, unpack
from registry.spec.media_types import JSON
from registry.spec.names import Digest, Reference, RepositoryName, parse_digest
from registry.storage import keys

# Metadata keys that serverless-registry defined.
_HAS_SUBJECT, _SUBJECT = "hasSubject", "subjectDigest"
# Our metadata key for what a manifest refers to (`registry.spec.manifest_references`).
_REFERENCES = "references"
# Metadata key of a copy: the origin of its upstream registry.
_UPSTREAM = "upstream"


@dataclass(frozen=True, slots=True)
class Received:
    """A received manifest, with its original bytes."""

    data: bytes
    digest: Digest
    manifest: Manifest
    content: bytes | Content = b""  # the same bytes, for the storage

    def typed_as(self, stored: StoredObject | None) -> "Received":
        """Return the manifest with the media type of the `stored` one: the first push of the bytes decides it."""
        known = None if stored is None else stored.content_type
        if known is None or not is_media_type(known):
            return self
        return replace(self, manifest=replace(self.manifest, media_type=known))


def receive(data: bytes, content_type: str | None, reference: Reference) -> Received:
    """Check a manifest pushed to `reference`. Raises MANIFEST_INVALID, or DIGEST_INVALID for another digest."""
    return Received(data, _check_digest(data, reference), parse_manifest(data, content_type), data)


def receive_stored(data: bytes, content_type: str | None, reference: Reference) -> Received:
    """Check a manifest that this or an upstream registry stores, by the laxer rules of `parse_stored`."""
    return Received(data, _check_digest(data, reference), parse_stored(data, content_type), data)


def _check_digest(data: bytes, reference: Reference) -> Digest:
    algorithm = reference.algorithm if isinstance(reference, Digest) else "sha256"
    digest = Digest(algorithm, hashlib.new(algorithm, data).hexdigest())
    if isinstance(reference, Digest) and reference != digest:
        raise RegistryError(Problem.DIGEST_INVALID, "the digest in the path is not that of the manifest's bytes")
    return digest


async def store(
    platform: Platform,
    name: RepositoryName,
    received: Received,
    reference: Reference,
    more: Mapping[str, str] | None = None,
) -> None:
    """Put a manifest under a tag, or under its digest with its referrers entry; `more` is additional metadata."""
    key = keys.manifest(name, reference)
    await platform.storage.put(key, received.content, _attributes(received, more), checksum=received.digest)
    if isinstance(reference, Digest) and received.manifest.subject is not None:
        await put_referrer(platform, name, received)


async def keep(
    platform: Platform,
    name: RepositoryName,
    received: Received,
    reference: Reference,
    upstream: str,
    known: StoredObject | None,
) -> None:
    """Store a copy of the manifest that `upstream` has at `reference`. Clients pull its blobs and children later.

    A tag is written only if it is absent or still the copy `known`. So a tag that was pushed meanwhile stays.
    """
    mark = {_UPSTREAM: upstream}
    there = await find(platform, name, received.digest)
    received = received.typed_as(there)
    if there is None:
        await store(platform, name, received, received.digest, mark)
    if isinstance(reference, Digest):
        return
    key, storage, checksum = keys.manifest(name, reference), platform.storage, received.digest
    attributes = _attributes(received, mark)
    condition = ABSENT if known is None else NotAfter(known.uploaded)
    if await storage.put(key, received.content, attributes, checksum=checksum, only_if=condition) is None:
        there = await storage.head(key)
        if known is not None or there is None or not is_tombstone(there):
            return
        condition = NotAfter(there.uploaded)
        await storage.put(key, received.content, attributes, checksum=checksum, only_if=condition)
    # A concurrent deletion of the manifest (registry.content.manifest_deletion) may have missed the tag.
    if await find(platform, name, received.digest) is None:
        await store(platform, name, received, received.digest, mark)
    await gc_register.interrupt(platform, name)


async def is_pushed(platform: Platform, name: RepositoryName) -> bool:
    """Whether a client pushed a manifest to the repository, so that not everything in it is a copy.

    The register records pushes while upstreams are configured. An earlier push shows in the first page of the listing.
    """
    prefix = keys.manifests(name)
    register, page = await asyncio.gather(
        gc_register.read(platform, name), platform.storage.list(prefix, with_metadata=True)
    )
    if register.is_pushed:
        return True
    return any(
        upstream_of(found) is None and not is_tombstone(found) and "/" not in found.key.removeprefix(prefix)
        for found in page.objects
    )


def references_in(stored: StoredObject) -> References | None:
    """Return what a manifest refers to, from its metadata; None when the metadata lacks it."""
    packed = stored.metadata.get(_REFERENCES)
    return None if packed is None else unpack(packed, stored.metadata.get(_SUBJECT, ""))


def upstream_of(stored: StoredObject) -> str | None:
    """Return the upstream registry from which this manifest or tag was copied; None when it was pushed."""
    return stored.metadata.get(_UPSTREAM)


async def put_referrer(platform: Platform, name: RepositoryName, received: Received) -> None:
    """Write the manifest's entry in the referrers list of its subject."""
    assert received.manifest.subject is not None
    key = keys.referrer(name, received.manifest.subject.digest, received.digest)
    entry = make_entry(received.manifest, received.digest, len(received.data))
    await platform.storage.put(key, entry.data, entry.attributes)


async def delete_referrer(platform: Platform, name: RepositoryName, digest: Digest, subject: str) -> None:
    """Delete a deleted manifest's entry in its subject's referrers list; restore it if the manifest is back."""
    storage = platform.storage
    key = keys.referrer(name, parse_digest(subject), digest)
    entry = await storage.get(key)
    if entry is None:
        return
    data = await entry.body.read(entry.object.size)
    await storage.delete([key])
    if await find(platform, name, digest) is not None:
        await storage.put(key, data, Attributes(JSON, entry.object.metadata))


async def subject_of(platform: Platform, stored: StoredObject, digest: Digest) -> str:
    """Return the subject of a stored manifest, "" when it has none. The bytes are read if the metadata lacks it."""
    if knows_subject(stored):
        return stored.metadata.get(_SUBJECT, "")
    found = await platform.storage.get(stored.key)
    if found is None:
        return ""
    try:
        received = receive_stored(await found.body.read(found.object.size), stored.content_type, digest)
    except RegistryError:
        return ""  # serverless-registry accepted an invalid manifest; it can still be deleted
    return "" if received.manifest.subject is None else str(received.manifest.subject.digest)


def is_tombstone(stored: StoredObject) -> bool:
    """Whether the object is a tombstone (`registry.content.manifest_deletion`): only a tombstone is empty."""
    return stored.size == 0


def knows_subject(stored: StoredObject) -> bool:
    """Whether the metadata states the subject. Older versions of serverless-registry did not write it."""
    return _HAS_SUBJECT in stored.metadata


async def find(platform: Platform, name: RepositoryName, reference: Reference) -> StoredObject | None:
    """Return a manifest's key and metadata without its bytes; None when it does not exist."""
    stored = await platform.storage.head(keys.manifest(name, reference))
    return None if stored is None or is_tombstone(stored) else stored


async def read(platform: Platform, name: RepositoryName, reference: Reference) -> StoredBody | None:
    """Return a manifest with its bytes; None when it does not exist."""
    stored = await platform.storage.get(keys.manifest(name, reference))
    if stored is not None and is_tombstone(stored.object):
        await stored.body.cancel()
        return None
    return stored


def digest_of(stored: StoredObject, reference: Reference) -> Digest | None:
    """Return the digest of a stored manifest. For a tag, it is the checksum that R2 verified at the put."""
    return reference if isinstance(reference, Digest) else stored.checksum


def _attributes(received: Received, more: Mapping[str, str] | None = None) -> Attributes:
    subject = received.manifest.subject
    metadata = {_HAS_SUBJECT: "false"} if subject is None else {_HAS_SUBJECT: "true", _SUBJECT: str(subject.digest)}
    packed = pack(references_of(received.manifest))
    if packed is not None:
        metadata[_REFERENCES] = packed
    return Attributes(received.manifest.media_type, {**metadata, **(more or {})})
