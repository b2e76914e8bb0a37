"""Bringing a bucket that SR wrote into our format, a step a request, as often as it takes.

Serving needs none of it. Deleting does: SR's links name another repository's blob and keep nothing alive, so nothing
may be deleted while there are any. The migration

- turns every link of SR's into one of ours: a small blob is copied, a large one's bytes become a data object, once,
  that all repositories link to;
- writes the referrers entries of manifests that an SR without a referrers list took (spec, "Enabling the Referrers
  API"), and counts the tags in which clients kept such lists themselves;
- deletes what SR left beside blobs and manifests: whoever was pushing to it begins again here.
"""

import json
import re
from dataclasses import asdict, dataclass, field

from registry import blobs, keys, manifests
from registry.errors import RegistryError
from registry.names import Digest, RepositoryName
from registry.platform import Platform
from registry.storage import ABSENT, Attributes, ChecksumMismatch, StoredObject

FORMAT_VERSION = 1
CALLS = 40  # R2 calls of one step: a request has 50 on the Free plan
# Calls that the most expensive object takes: two links of a large blob, with its copy.
_CALLS_OF_ONE = 9
_MAX_PROBLEMS = 100  # that are kept for the operator

# Spec, "Referrers Tag Schema": the tag in which a client keeps the referrers of a digest.
_REFERRERS_TAG = re.compile(r".*/manifests/sha(256-[a-f0-9]{64}|512-[a-f0-9]{64,128})", re.ASCII)


_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(-helper)?"
# What SR leaves beside blobs and manifests: marks of its garbage collection, states of uploads, and their data.
_LEFTOVER = re.compile(rf".+/(gc|insertion)/(marker|last_update|{_UUID})|.+/uploads/{_UUID}|{_UUID}", re.ASCII)


@dataclass(slots=True)
class Migration:
    """How far the migration is. Counts are of everything done so far."""

    done: bool = False
    cursor: str = ""  # the last key that was looked at
    objects: int = 0  # looked at
    links: int = 0  # of SR's, that are now ours or copies
    copied_bytes: int = 0
    referrers: int = 0  # entries written
    referrers_tags: int = 0  # lists that clients keep in tags
    leftovers: int = 0  # of SR's, that were deleted
    problems: list[str] = field(default_factory=list)  # keys that could not be migrated, and why


async def is_done(platform: Platform) -> bool:
    """Whether the bucket is in our format."""
    return await platform.storage.head(keys.FORMAT) is not None


async def note_if_empty(platform: Platform) -> None:
    """An empty bucket is in our format from the start."""
    if not (await platform.storage.list("", limit=1)).objects:
        await _note_done(platform)


async def step(platform: Platform) -> Migration:
    """Do the next part. Asked again when all is done it looks at nothing and says so."""
    migration = await _read(platform)
    if migration.done:
        return migration
    calls = 1
    while calls + 1 + _CALLS_OF_ONE <= CALLS:
        page = await platform.storage.list("", start_after=migration.cursor or None, with_metadata=True)
        calls += 1
        for found in page.objects:
            if calls + _CALLS_OF_ONE > CALLS:
                break
            if found.key.startswith(keys.OURS):
                migration.cursor = keys.OURS + "~"  # behind everything that is ours
                break
            calls += await _migrate(platform, migration, found)
            migration.cursor = found.key
        else:
            if page.cursor is None:
                migration.done = True
                await _note_done(platform)
                break
    attributes = Attributes("application/json")
    await platform.storage.put(keys.MIGRATION, json.dumps(asdict(migration)).encode(), attributes)
    return migration


async def _read(platform: Platform) -> Migration:
    stored = await platform.storage.get(keys.MIGRATION)
    if stored is None:
        return Migration(done=await is_done(platform))
    return Migration(**json.loads(await stored.body.read(stored.object.size)))


async def _note_done(platform: Platform) -> None:
    attributes = Attributes("application/json", {"nonce": platform.random_hex(8)})
    await platform.storage.put(
        keys.FORMAT, json.dumps({"version": FORMAT_VERSION}).encode(), attributes, only_if=ABSENT
    )


async def _migrate(platform: Platform, migration: Migration, found: StoredObject) -> int:
    """Look at one object; returns how many calls it took at most."""
    migration.objects += 1
    if _LEFTOVER.fullmatch(found.key):
        await platform.storage.delete([found.key])
        migration.leftovers += 1
        return 1
    if _REFERRERS_TAG.fullmatch(found.key):
        migration.referrers_tags += 1
    blob = keys.parse_blob(found.key)
    if blob is not None and blobs.is_sr_link(found):
        await _migrate_link(platform, migration, found, *blob)
        return _CALLS_OF_ONE
    manifest = keys.parse_manifest_digest(found.key)
    if manifest is not None and not (manifests.knows_subject(found) or manifests.is_tombstone(found)):
        await _migrate_manifest(platform, migration, found, *manifest)
        return 2
    return 0


async def _migrate_link(
    platform: Platform, migration: Migration, found: StoredObject, name: RepositoryName, digest: Digest
) -> None:
    storage = platform.storage
    blob = await blobs.resolve(platform, found, digest)
    stored = None if blob is None or blob.data is not None else await storage.get(blob.key)
    if blob is None or (blob.data is None and stored is None):
        _problem(migration, found.key, "leads to nothing")
        return
    data = blob.data
    try:
        if stored is not None and blob.size < blobs.LARGE_BLOB:
            await storage.put(found.key, stored.body, checksum=digest, only_if=found.etag)
            migration.copied_bytes += blob.size
        elif stored is not None:
            data = blobs.Data(blobs.new_id(platform), blob.size)
            await storage.put(data.key, stored.body, checksum=digest)
            migration.copied_bytes += blob.size
            source = keys.parse_blob(blob.key)
            if source is not None:
                # The source links to the same bytes: what was at its key is stored once, not twice.
                await blobs.replace(platform, *source, data, etag=stored.object.etag)
    except ChecksumMismatch:
        _problem(migration, found.key, f"leads to {blob.key}, whose bytes are not those of its digest")
        return
    finally:
        if stored is not None:
            await stored.body.cancel()
    if data is not None:
        await blobs.replace(platform, name, digest, data, etag=found.etag)
    migration.links += 1


async def _migrate_manifest(
    platform: Platform, migration: Migration, found: StoredObject, name: RepositoryName, digest: Digest
) -> None:
    stored = await platform.storage.get(found.key)
    if stored is None:
        return
    data = await stored.body.read(found.size)
    try:
        received = manifests.receive_stored(data, found.content_type, digest)
    except RegistryError as error:
        _problem(migration, found.key, error.message)
        return
    if received.manifest.subject is not None:
        await manifests.put_referrer(platform, name, received)
        migration.referrers += 1


def _problem(migration: Migration, key: str, reason: str) -> None:
    if len(migration.problems) < _MAX_PROBLEMS:
        migration.problems.append(f"{key} {reason}")
