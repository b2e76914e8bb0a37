"""Manifests of a repository: stored under their digest, and again under every tag."""

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

# Metadata, as SR writes it.
_HAS_SUBJECT, _SUBJECT = "hasSubject", "subjectDigest"
# Metadata of ours: `registry.spec.manifest_references`.
_REFERENCES = "references"
# Metadata of a copy: the origin of the upstream that has it.
_UPSTREAM = "upstream"


@dataclass(frozen=True, slots=True)
class Received:
    """A manifest as it came: the bytes are the truth."""

    data: bytes
    digest: Digest
    manifest: Manifest
    content: bytes | Content = b""  # the same bytes, for the storage

    def typed_as(self, stored: StoredObject | None) -> "Received":
        """With the media type of the same bytes that were `stored` first: it does not change."""
        known = None if stored is None else stored.content_type
        if known is None or not is_media_type(known):
            return self
        return replace(self, manifest=replace(self.manifest, media_type=known))


def receive(data: bytes, content_type: str | None, reference: Reference) -> Received:
    """Check a manifest that is pushed to `reference`; raises MANIFEST_INVALID, or DIGEST_INVALID when it differs."""
    return Received(data, _check_digest(data, reference), parse_manifest(data, content_type), data)


def receive_stored(data: bytes, content_type: str | None, reference: Reference) -> Received:
    """The same for one that is stored, here or at another registry (`parse_stored`)."""
    return Received(data, _check_digest(data, reference), parse_stored(data, content_type), data)


def _check_digest(data: bytes, reference: Reference) -> Digest:
    algorithm = reference.algorithm if isinstance(reference, Digest) else "sha256"
    digest = Digest(algorithm, hashlib.new(algorithm, data).hexdigest())
    if isinstance(reference, Digest) and reference != digest:
        raise RegistryError(Problem.DIGEST_INVALID, "the manifest's bytes are not those of the digest in the path")
    return digest


async def store(
    platform: Platform,
    name: RepositoryName,
    received: Received,
    reference: Reference,
    more: Mapping[str, str] | None = None,
) -> None:
    """Put a manifest under its digest, with its entry among the referrers, or under a tag; `more` is metadata."""
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
    """Store a copy of what `upstream` has at `reference`; what it refers to comes when it is pulled.

    A tag is replaced only while the copy `known` lies there, or nothing: never one that was pushed meanwhile.
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
    # Who deletes the manifest meanwhile (registry.manifest_deletion) may have missed the tag.
    if await find(platform, name, received.digest) is None:
        await store(platform, name, received, received.digest, mark)
    await gc_register.interrupt(platform, name)


async def is_pushed(platform: Platform, name: RepositoryName) -> bool:
    """Whether somebody pushed a manifest to the repository: not everything in it is a copy.

    The register says so of what is pushed while there are upstreams; what was pushed before is among the first listed.
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
    """What a manifest refers to, as its metadata has it; None when only its bytes say."""
    packed = stored.metadata.get(_REFERENCES)
    return None if packed is None else unpack(packed, stored.metadata.get(_SUBJECT, ""))


def upstream_of(stored: StoredObject) -> str | None:
    """The upstream whose manifest or tag this is a copy of; None when it was pushed."""
    return stored.metadata.get(_UPSTREAM)


async def put_referrer(platform: Platform, name: RepositoryName, received: Received) -> None:
    """List a manifest with the referrers of its subject."""
    assert received.manifest.subject is not None
    key = keys.referrer(name, received.manifest.subject.digest, received.digest)
    entry = make_entry(received.manifest, received.digest, len(received.data))
    await platform.storage.put(key, entry.data, entry.attributes)


async def delete_referrer(platform: Platform, name: RepositoryName, digest: Digest, subject: str) -> None:
    """Take a manifest that was deleted off its subject's list; who pushed it again meanwhile finds it there."""
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
    """The subject of a stored manifest, "" when it has none; one that nobody looked at yet is read."""
    if knows_subject(stored):
        return stored.metadata.get(_SUBJECT, "")
    found = await platform.storage.get(stored.key)
    if found is None:
        return ""
    try:
        received = receive_stored(await found.body.read(found.object.size), stored.content_type, digest)
    except RegistryError:
        return ""  # SR took it, and nobody can say what it means: at least it can be deleted
    return "" if received.manifest.subject is None else str(received.manifest.subject.digest)


def is_tombstone(stored: StoredObject) -> bool:
    """Whether a manifest was deleted there (`registry.content.manifest_deletion`): no manifest is empty."""
    return stored.size == 0


def knows_subject(stored: StoredObject) -> bool:
    """Whether the stored manifest was looked at for a subject, by us or by an SR that did."""
    return _HAS_SUBJECT in stored.metadata


async def find(platform: Platform, name: RepositoryName, reference: Reference) -> StoredObject | None:
    """What is known of a manifest without its bytes."""
    stored = await platform.storage.head(keys.manifest(name, reference))
    return None if stored is None or is_tombstone(stored) else stored


async def read(platform: Platform, name: RepositoryName, reference: Reference) -> StoredBody | None:
    """A manifest with its bytes."""
    stored = await platform.storage.get(keys.manifest(name, reference))
    if stored is not None and is_tombstone(stored.object):
        await stored.body.cancel()
        return None
    return stored


def digest_of(stored: StoredObject, reference: Reference) -> Digest | None:
    """The digest of a stored manifest: R2 verified the checksum when it was put."""
    return reference if isinstance(reference, Digest) else stored.checksum


def _attributes(received: Received, more: Mapping[str, str] | None = None) -> Attributes:
    subject = received.manifest.subject
    metadata = {_HAS_SUBJECT: "false"} if subject is None else {_HAS_SUBJECT: "true", _SUBJECT: str(subject.digest)}
    packed = pack(references_of(received.manifest))
    if packed is not None:
        metadata[_REFERENCES] = packed
    return Attributes(received.manifest.media_type, {**metadata, **(more or {})})
