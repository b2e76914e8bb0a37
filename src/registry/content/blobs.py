"""Blobs of a repository: small ones at their key, large ones as data that a link leads to."""

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

LARGE_BLOB = 8 * 1024 * 1024  # bytes: from here on bytes are shared between repositories through links
MAX_MOUNT_COPY = 64 * 1024 * 1024  # bytes: what a mount copies, where SR left no data object to link to


# Metadata of our links.
_TARGET, _REF, _SIZE, _DIGEST = "target", "ref", "size", "digest"
# Metadata of SR's links: the repository that has the bytes.
_SR_LINK = "x-serverless-registry-symlink"
# SR resolved links when it made one, so a chain has one step; more would be a loop.
_MAX_SR_STEPS = 3

_RANDOM_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_ID_BYTES = 16
LINK_SIZE = 2 * _ID_BYTES  # bytes of a link of ours: the id of its data


class DamagedLink(StorageError):
    """What a link says makes no sense."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob that is there: the key that has its bytes, and their number."""

    key: str
    size: int
    data: "Data | None" = None  # the same as a data object, when a link of ours leads to it


@dataclass(frozen=True, slots=True)
class Data:
    """A data object: the bytes of a large blob."""

    id: str
    size: int  # bytes

    @property
    def key(self) -> str:
        """Where it lies."""
        return keys.data(self.id)


def new_id(platform: Platform) -> str:
    """A fresh id of a data object or a ref."""
    return platform.random_hex(_ID_BYTES)


async def find(platform: Platform, name: RepositoryName, digest: Digest) -> Blob | None:
    """Where the bytes of a blob are; None when the repository has none of that digest."""
    stored = await find_own(platform, name, digest)
    return None if stored is None else await resolve(platform, stored, digest)


async def read(platform: Platform, name: RepositoryName, digest: Digest) -> StoredBody | None:
    """A blob with its bytes."""
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
    """Some bytes of a blob that `find` found; None when it was deleted since.

    Raises StorageError when something else lies there by now: the migration puts a link where bytes were.
    """
    stored = await platform.storage.get(blob.key, part)
    if stored is not None and stored.object.size != blob.size:
        await stored.body.cancel()
        raise StorageError("the blob was moved while it was read")
    return stored


async def resolve(platform: Platform, stored: StoredObject, digest: Digest) -> Blob | None:
    """Follow links from what lies at a blob's key to its bytes; None when one of them is damaged or leads nowhere."""
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
    """The data that a link of ours leads to, and the nonce of its ref; None when the object is none."""
    data = _link_target(stored)
    return None if data is None else (data, stored.metadata.get(_REF, ""))


def digest_of_ref(ref: StoredObject) -> str | None:
    """The digest of the blob whose link a ref is for; None for one of an earlier version, which did not note it."""
    return ref.metadata.get(_DIGEST)


def is_sr_link(stored: StoredObject) -> bool:
    """Whether SR left a link there."""
    return any(key.lower() == _SR_LINK for key in stored.metadata)


def _is_link(stored: StoredObject) -> bool:
    return _TARGET in stored.metadata or is_sr_link(stored)


def _link_target(stored: StoredObject) -> Data | None:
    """What a link of ours leads to; None when the object is none."""
    target, size = stored.metadata.get(_TARGET), stored.metadata.get(_SIZE)
    if target is None or size is None:
        return None
    if _RANDOM_ID.fullmatch(target) is None or not size.isdecimal():
        raise DamagedLink("a link is damaged")
    return Data(target, int(size))


def _sr_source(stored: StoredObject) -> RepositoryName | None:
    """The repository that a link of SR's names; None when the object is none."""
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
    """Store a blob below LARGE_BLOB; R2 verifies it. Raises ChecksumMismatch, and then nothing is stored.

    What is there already is replaced by the same bytes, so that a damaged one heals.
    """
    try:
        await platform.storage.put(keys.blob(name, digest), content, checksum=digest)
    except StorageBusy:
        # Somebody stores the same blob in this very second: theirs is as good.
        if await find(platform, name, digest) is None:
            raise


class Standing(Enum):
    """Why data that is about to be linked cannot vanish meanwhile."""

    OURS = "this request made it: nobody else drops it"
    LINKED = "a link keeps it; that link may be going"
    TWIN = "a twin of this request made it, and may be dropping it"


async def link(
    platform: Platform, name: RepositoryName, digest: Digest, data: Data, standing: Standing = Standing.OURS
) -> None:
    """Make data that was verified a blob of `name`; when it has a sound one already, data of ours is dropped."""
    storage = platform.storage
    key = keys.blob(name, digest)
    if await _put_link(platform, name, digest, data, standing, only_if=ABSENT):
        return
    found = await storage.head(key)
    if found is None:
        raise StorageBusy("the blob was deleted while it was pushed")
    if await _is_sound(platform, found, digest, data.size):
        if standing is Standing.OURS and _link_target(found) != data:
            await drop_data(platform, data)
        return
    # Nothing can be read through what is there: replace just that.
    log("link-without-target", key=key)
    if not await _put_link(platform, name, digest, data, standing, only_if=found.etag):
        raise StorageBusy("the blob was pushed twice at once")


async def replace(platform: Platform, name: RepositoryName, digest: Digest, data: Data, *, etag: str) -> bool:
    """Put a link where an object with this etag lies; False when another one lies there now."""
    return await _put_link(platform, name, digest, data, Standing.OURS, only_if=etag)


async def _put_link(
    platform: Platform, name: RepositoryName, digest: Digest, data: Data, standing: Standing, *, only_if: str
) -> bool:
    """Write a ref and then its link, which names the ref's nonce: data that a link leads to never lacks a ref."""
    storage = platform.storage
    nonce = new_id(platform)
    ref = keys.ref(data.id, nonce, name)
    metadata = {_TARGET: data.id, _REF: nonce, _SIZE: str(data.size), _DIGEST: str(digest)}
    # Who finds a ref that was left behind looks whether its link is there, and names its nonce. And it says that the
    # data was verified, should the link not come about.
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
        raise RegistryError(Problem.UPLOAD_UNKNOWN, "another request gave this upload up")
    return stored is not None


async def _still_there(platform: Platform, data: Data, standing: Standing) -> bool:
    """Whether data whose ref was just written stays.

    Who deletes it writes the marker, looks for refs, deletes the data and then the marker. No marker: either our ref
    will be seen, or all that is over; then, for data that nothing kept, the data is gone, and so it is looked at last.
    """
    if standing is Standing.OURS:
        return True
    if await platform.storage.head(keys.condemned(data.id)) is not None:
        return False
    return standing is Standing.LINKED or await platform.storage.head(data.key) is not None


async def is_verified(platform: Platform, data: Data, digest: Digest) -> bool:
    """Whether somebody read the data to its end and found this digest: only then a ref says so."""
    refs = await platform.storage.list(keys.refs(data.id), with_metadata=True)
    return any(found.metadata.get(_DIGEST) == str(digest) for found in refs.objects)


async def mount(platform: Platform, name: RepositoryName, digest: Digest, source: RepositoryName) -> bool:
    """Make a blob of `source` one of `name`, without its bytes passing through; False when the client must upload it.

    A link of ours gets a second link; what lies at the source's own key is copied, up to MAX_MOUNT_COPY.
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
            return False  # it is being deleted
        return True
    found = await platform.storage.get(blob.key)
    return found is not None and await _copy(platform, name, digest, found)


async def _copy(platform: Platform, name: RepositoryName, digest: Digest, stored: StoredBody) -> bool:
    """Store the bytes again, verified, for another repository."""
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
    """Store a blob from one body of known size up to MAX_PUT_SIZE.

    R2 verifies it: raises ChecksumMismatch, and then nothing is stored.
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
    """What lies at a repository's own key: the bytes of a small blob, or a link."""
    return await platform.storage.head(keys.blob(name, digest))


async def delete(platform: Platform, name: RepositoryName, stored: StoredObject) -> None:
    """Take what `find_own` found from its repository, and only from that.

    The bytes of a large blob stay until the sweeper finds that no repository links to them.
    """
    await platform.storage.delete([stored.key])
    data = _link_target(stored)
    if data is not None:
        # After the link: data that a link leads to never lacks a ref.
        with tidying("a ref"):
            await platform.storage.delete([keys.ref(data.id, stored.metadata[_REF], name)])


async def drop_data(platform: Platform, data: Data) -> None:
    """Delete data that this request made and nothing needs, unless somebody's ref says otherwise."""
    with tidying("data"):
        await free_data(platform, data.id)
        await platform.storage.delete([keys.condemned(data.id)])


async def free_data(platform: Platform, data_id: str) -> bool:
    """Delete data unless it has a ref; False when it has. Its marker stays, for the caller to delete.

    The marker before the look for refs: whoever links the data writes a ref and then looks for the marker.
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
    blob = await resolve(platform, stored, digest)
    if blob is None or blob.size != size:
        return False
    return blob.key == stored.key or await platform.storage.head(blob.key) is not None
