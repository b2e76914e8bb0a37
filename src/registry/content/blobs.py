"""Blobs of a repository.

The key of a small blob has its bytes. The key of a large blob has a link to a data object, which repositories share.
Each link has a ref, an empty object that tells the sweeper that the data object is in use. In this package, "our
links" are these links, in contrast to the links of serverless-registry, which name another repository.
"""

import re
from dataclasses import dataclass
from enum import Enum

from registry.ports.platform import Platform
from registry.ports.retries import tidying
from registry.ports.storage import (
    ABSENT,
    MAX_PUT_SIZE,
    Attributes,
    ChecksumMismatch,
    Content,
    Source,
    StorageBusy,
    StorageError,
    StoredBody,
    StoredObject,
)
from registry.spec.errors import Problem, RegistryError
from registry.spec.names import Digest, RepositoryName, parse_name
from registry.spec.ranges import ByteRange
from registry.storage import keys
from registry.telemetry.log import log

LARGE_BLOB = 8 * 1024 * 1024  # bytes: from this size on, a blob is a data object that repositories share through links
MAX_MOUNT_COPY = 64 * 1024 * 1024  # bytes: the largest blob that a mount copies


# Metadata keys of our links.
_TARGET, _REF, _SIZE, _DIGEST = "target", "ref", "size", "digest"
# Metadata key of serverless-registry's links: the repository that has the bytes.
_SR_LINK = "x-serverless-registry-symlink"
# serverless-registry resolved links when it created one, so a chain has one step; more would be a loop.
_MAX_SR_STEPS = 3

_RANDOM_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_ID_BYTES = 16
LINK_SIZE = 2 * _ID_BYTES  # bytes of one of our links: the id of its data object


class DamagedLink(StorageError):
    """The metadata of a link is invalid."""


@dataclass(frozen=True, slots=True)
class Blob:
    """An existing blob: the key that has its bytes, and its size in bytes."""

    key: str
    size: int
    data: "Data | None" = None  # the data object, when one of our links leads to it


@dataclass(frozen=True, slots=True)
class Data:
    """A data object: the bytes of a large blob."""

    id: str
    size: int  # bytes

    @property
    def key(self) -> str:
        """The key of the data object."""
        return keys.data(self.id)


def new_id(platform: Platform) -> str:
    """Return a random id for a data object or a ref."""
    return platform.random_hex(_ID_BYTES)


async def find(platform: Platform, name: RepositoryName, digest: Digest) -> Blob | None:
    """Find the bytes of a blob; None when the repository has no blob with this digest."""
    stored = await find_own(platform, name, digest)
    return None if stored is None else await resolve(platform, stored, digest)


async def read(platform: Platform, name: RepositoryName, digest: Digest) -> StoredBody | None:
    """Read a blob; None when the repository has no blob with this digest."""
    stored = await platform.storage.get(keys.blob(name, digest))
    if stored is None:
        return None
    if not _is_link(stored.object):
        return stored
    await stored.body.cancel()
    blob = await resolve(platform, stored.object, digest)
    target = None if blob is None else await read_part(platform, blob, None)
    if target is None:
        log("link-without-target", key=stored.object.key)
    return target


async def read_part(platform: Platform, blob: Blob, part: ByteRange | None) -> StoredBody | None:
    """Read a range of a blob that `find` returned, or all of it; None when the blob was deleted since then.

    Raises StorageError when its key has another object now: the migration replaces bytes with a link.
    """
    stored = await platform.storage.get(blob.key, part)
    if stored is not None and stored.object.size != blob.size:
        await stored.body.cancel()
        raise StorageError("the blob's bytes were moved while they were read")
    return stored


async def resolve(platform: Platform, stored: StoredObject, digest: Digest) -> Blob | None:
    """Follow the links from the object at a blob's key to its bytes; None for a damaged or dangling link."""
    for _ in range(_MAX_SR_STEPS + 1):
        try:
            data, source = _link_target(stored), _sr_source(stored)
        except DamagedLink:
            log("damaged-link", key=stored.key)
            return None
        if data is not None:
            return Blob(data.key, data.size, data)
        if source is None:
            return Blob(stored.key, stored.size)
        found = await platform.storage.head(keys.blob(source, digest))
        if found is None:
            log("link-without-target", key=stored.key)
            return None
        stored = found
    log("links-in-a-circle", key=stored.key)
    return None


def link_of(stored: StoredObject) -> tuple[Data, str] | None:
    """Return the data object and the ref's nonce that one of our links names; None when the object is no such link."""
    data = _link_target(stored)
    return None if data is None else (data, stored.metadata.get(_REF, ""))


def digest_of_ref(ref: StoredObject) -> str | None:
    """Return the digest of the blob to which a ref belongs; None for a ref of an earlier version, which lacks it."""
    return ref.metadata.get(_DIGEST)


def is_sr_link(stored: StoredObject) -> bool:
    """Whether the object is a link that serverless-registry wrote."""
    return any(key.lower() == _SR_LINK for key in stored.metadata)


def _is_link(stored: StoredObject) -> bool:
    return _TARGET in stored.metadata or is_sr_link(stored)


def _link_target(stored: StoredObject) -> Data | None:
    """Return the data object that one of our links names; None when the object is no such link."""
    target, size = stored.metadata.get(_TARGET), stored.metadata.get(_SIZE)
    if target is None or size is None:
        return None
    if _RANDOM_ID.fullmatch(target) is None or not size.isdecimal():
        raise DamagedLink("a link is damaged")
    return Data(target, int(size))


def _sr_source(stored: StoredObject) -> RepositoryName | None:
    """Return the repository that a link of serverless-registry names; None when the object is no such link."""
    for key, value in stored.metadata.items():
        if key.lower() == _SR_LINK:
            try:
                return parse_name(value)
            except RegistryError:
                raise DamagedLink("a link is damaged") from None
    return None


async def store_small(
    platform: Platform, name: RepositoryName, digest: Digest, content: bytes | Source | Content
) -> None:
    """Store a blob smaller than LARGE_BLOB; R2 verifies its digest.

    An existing object is replaced, which repairs a damaged one. Raises ChecksumMismatch, with nothing stored.
    """
    try:
        await platform.storage.put(keys.blob(name, digest), content, checksum=digest)
    except StorageBusy:
        # Another request stores the same blob in the same second: its object is as good.
        if await find(platform, name, digest) is None:
            raise


class Standing(Enum):
    """Who keeps a data object until the new link to it exists. It decides what `link` has to check."""

    OURS = "this request created the data object: no other request deletes it"
    LINKED = "another link keeps the data object; that link may be deleted meanwhile"
    TWIN = "a concurrent request that closes the same session created the data object, and may delete it"


async def link(
    platform: Platform, name: RepositoryName, digest: Digest, data: Data, standing: Standing = Standing.OURS
) -> None:
    """Link a verified data object as a blob of `name`.

    When the repository already has the blob intact, the data object is deleted if this request created it.
    """
    storage = platform.storage
    key = keys.blob(name, digest)
    if await _put_link(platform, name, digest, data, standing, only_if=ABSENT):
        return
    found = await storage.head(key)
    if found is None:
        raise StorageBusy("the blob was deleted while it was pushed: push it again")
    if await _is_sound(platform, found, digest, data.size):
        if standing is Standing.OURS and _link_target(found) != data:
            await drop_data(platform, data)
        return
    # The existing object does not lead to the blob's bytes: replace exactly that object.
    log("link-without-target", key=key)
    if not await _put_link(platform, name, digest, data, standing, only_if=found.etag):
        raise StorageBusy("two requests pushed the blob at once: push it again")


async def replace(platform: Platform, name: RepositoryName, digest: Digest, data: Data, *, etag: str) -> bool:
    """Replace the object at a blob's key with a link, if it still has this etag; False when it does not."""
    return await _put_link(platform, name, digest, data, Standing.OURS, only_if=etag)


async def _put_link(
    platform: Platform, name: RepositoryName, digest: Digest, data: Data, standing: Standing, *, only_if: str
) -> bool:
    """Write a ref and then the link, which names the ref's nonce: so no linked data object is without a ref."""
    storage = platform.storage
    nonce = new_id(platform)
    ref = keys.ref(data.id, nonce, name)
    metadata = {_TARGET: data.id, _REF: nonce, _SIZE: str(data.size), _DIGEST: str(digest)}
    # The digest in the ref has two uses. The sweeper finds the ref's link by it, to tell whether the ref is orphaned.
    # And it records that the data object was verified, in case the link is never written.
    await storage.put(ref, b"", Attributes(metadata={_DIGEST: str(digest)}))
    is_there = await _still_there(platform, data, standing)
    stored = None
    if is_there:
        attributes = Attributes(metadata=metadata)
        stored = await storage.put(keys.blob(name, digest), data.id.encode(), attributes, only_if=only_if)
    if stored is None:
        with tidying("a ref"):
            await storage.delete([ref])
    if not is_there:
        raise RegistryError(Problem.UPLOAD_UNKNOWN, "another request cancelled this upload: start a new one")
    return stored is not None


async def _still_there(platform: Platform, data: Data, standing: Standing) -> bool:
    """Whether a data object whose ref was just written will stay.

    A deletion writes the marker, lists the refs, deletes the data object, and then deletes the marker. Without a
    marker, the deletion either has yet to list our ref, or is over. For a TWIN, it may be over with the data object
    deleted, so the data object is checked after the marker.
    """
    if standing is Standing.OURS:
        return True
    if await platform.storage.head(keys.condemned(data.id)) is not None:
        return False
    return standing is Standing.LINKED or await platform.storage.head(data.key) is not None


async def is_verified(platform: Platform, data: Data, digest: Digest) -> bool:
    """Whether an earlier request read all of the data object and found this digest. Its ref records that."""
    refs = await platform.storage.list(keys.refs(data.id), with_metadata=True)
    return any(found.metadata.get(_DIGEST) == str(digest) for found in refs.objects)


async def mount(platform: Platform, name: RepositoryName, digest: Digest, source: RepositoryName) -> bool:
    """Mount a blob of `source` in `name` (cross-repository mount); False when the client must upload it.

    A data object gets a second link. Bytes at a blob's key are copied, up to MAX_MOUNT_COPY.
    """
    stored = await platform.storage.get(keys.blob(source, digest))
    if stored is None:
        return False
    if not _is_link(stored.object):
        return await _copy(platform, name, digest, stored)
    await stored.body.cancel()
    blob = await resolve(platform, stored.object, digest)
    if blob is None:
        return False
    if blob.data is not None:
        try:
            await link(platform, name, digest, blob.data, Standing.LINKED)
        except (RegistryError, StorageBusy):
            return False  # the source is being deleted
        return True
    found = await platform.storage.get(blob.key)
    return found is not None and await _copy(platform, name, digest, found)


async def _copy(platform: Platform, name: RepositoryName, digest: Digest, stored: StoredBody) -> bool:
    """Copy a blob to another repository and verify it; False when it is too large to copy, or damaged."""
    size = stored.object.size
    if size > MAX_MOUNT_COPY:
        await stored.body.cancel()
        return False
    try:
        await put_whole(platform, name, digest, stored.body)
    except ChecksumMismatch:
        log("damaged-blob", key=stored.object.key)
        return False
    finally:
        await stored.body.cancel()
    return True


async def put_whole(platform: Platform, name: RepositoryName, digest: Digest, body: Source) -> None:
    """Store a blob from one body of known size, up to MAX_PUT_SIZE; R2 verifies its digest.

    Raises ChecksumMismatch, with nothing stored.
    """
    assert body.size is not None
    assert body.size <= MAX_PUT_SIZE
    if body.size < LARGE_BLOB:
        await store_small(platform, name, digest, body)
    else:
        data = Data(new_id(platform), body.size)
        await platform.storage.put(data.key, body, checksum=digest)
        await link(platform, name, digest, data)


async def find_own(platform: Platform, name: RepositoryName, digest: Digest) -> StoredObject | None:
    """Return the object at the blob's key in this repository: the bytes of a small blob, or a link."""
    return await platform.storage.head(keys.blob(name, digest))


async def delete(platform: Platform, name: RepositoryName, stored: StoredObject) -> None:
    """Delete a blob that `find_own` returned, in this repository only.

    The bytes of a large blob stay until the sweeper finds that no repository links to them.
    """
    await platform.storage.delete([stored.key])
    data = _link_target(stored)
    if data is not None:
        # The ref goes after the link, so that no linked data object is without a ref.
        with tidying("a ref"):
            await platform.storage.delete([keys.ref(data.id, stored.metadata[_REF], name)])


async def drop_data(platform: Platform, data: Data) -> None:
    """Delete a data object that this request created and does not need, unless another request wrote a ref to it."""
    with tidying("data"):
        await free_data(platform, data.id)
        await platform.storage.delete([keys.condemned(data.id)])


async def free_data(platform: Platform, data_id: str) -> bool:
    """Delete a data object unless it has a ref; False when it has one. The caller deletes the marker.

    The marker is written before the refs are listed; a request that links the data object writes its ref before it
    looks for the marker. So at least one of the two notices the other.
    """
    storage = platform.storage
    marker = keys.condemned(data_id)
    await storage.put(marker, b"")
    refs = await storage.list(keys.refs(data_id), limit=2)
    if any(found.key != marker for found in refs.objects):
        return False
    await storage.delete([keys.data(data_id)])
    return True


async def _is_sound(platform: Platform, stored: StoredObject, digest: Digest, size: int) -> bool:
    """Whether the object at a blob's key leads to existing bytes of this size."""
    blob = await resolve(platform, stored, digest)
    if blob is None or blob.size != size:
        return False
    return blob.key == stored.key or await platform.storage.head(blob.key) is not None
