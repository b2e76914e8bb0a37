"""Bringing a bucket that SR wrote into our format, a step a request, as often as it takes.

Serving needs none of it. Deleting does: SR's links name another repository's blob and keep nothing alive, so nothing
may be deleted while there are any. The migration walks over every key once and

- turns every link of SR's into one of ours: a small blob is copied, a large one's bytes become a data object, once,
  that all repositories link to. A link that leads nowhere, or says nothing sensible, is a problem that stays;
- writes the referrers entries of manifests that an SR without a referrers list took (spec, "Enabling the Referrers
  API"), and counts the tags in which clients kept such lists themselves;
- deletes what SR left behind: the data and states of its uploads, and the marks of its garbage collection. What is too
  young for that goes when the migration is asked for again a week later.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from registry.content import blobs, manifests
from registry.ports.platform import Platform
from registry.ports.storage import MAX_PUT_SIZE, Attributes, ChecksumMismatch, StoredObject
from registry.spec.errors import RegistryError
from registry.spec.names import Digest, RepositoryName, parse_name
from registry.storage import bucket_format, keys
from registry.storage.calls import Calls, OutOfCalls

COPIED_BYTES = 4 * 1024**3  # that a step copies, about: a client waits for the answer
LEFTOVER_AGE = 7 * 24 * 3600  # seconds after which what SR left is not in use: R2 drops its uploads by then
_MAX_PROBLEMS = 100  # that are kept for the operator

# Spec, "Referrers Tag Schema": the tag in which a client keeps the referrers of a digest.
_REFERRERS_TAG = re.compile(r".*/manifests/sha(256-[a-f0-9]{64}|512-[a-f0-9]{64,128})", re.ASCII)
# SR's uploads, named by their session: the data at the root, the state in the repository; and its marks.
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(-helper)?"
_LEFTOVER = re.compile(rf"{_UUID}|(?P<name>.+)/(uploads/{_UUID}|(gc|insertion)/(marker|last_update|{_UUID}))", re.ASCII)


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
    problems: list[str] = field(default_factory=list)  # keys that could not be migrated, and why
    leftovers: int = 0  # of SR's, deleted
    young: int = 0  # of those, that may be in use, and were left
    ended: float = 0.0  # when it was done, in seconds since the epoch


async def step(platform: Platform, r2_calls: int) -> Migration:
    """Do the next part, with so many calls. Asked again when all is done it looks at nothing and says so."""
    migration = await _read(platform)
    if migration.done and not (migration.young and platform.now() - migration.ended >= LEFTOVER_AGE):
        return migration
    if migration.done:
        migration = Migration()
    try:
        await _Step(platform, migration, r2_calls).run()
    finally:
        # Whatever failed: what was done is done.
        attributes = Attributes("application/json")
        await platform.storage.put(keys.MIGRATION, json.dumps(asdict(migration)).encode(), attributes)
    return migration


async def _read(platform: Platform) -> Migration:
    stored = await platform.storage.get(keys.MIGRATION)
    if stored is None:
        return Migration(done=await bucket_format.is_ours(platform))
    return Migration(**json.loads(await stored.body.read(stored.object.size)))


def _is_leftover(key: str) -> bool:
    """Whether SR's uploads or its garbage collection left that."""
    match = _LEFTOVER.fullmatch(key)
    try:
        return match is not None and (match["name"] is None or bool(parse_name(match["name"])))
    except RegistryError:
        return False


class _Step:
    """What one request does."""

    def __init__(self, platform: Platform, migration: Migration, r2_calls: int) -> None:
        self._platform = platform
        self._storage = platform.storage
        self._migration = migration
        self._calls = Calls(r2_calls - 3)  # its state is read and written, and the format
        self._may_copy = migration.copied_bytes + COPIED_BYTES

    async def run(self) -> None:
        """Walk on until the calls are spent, so many bytes were copied, or nothing is left."""
        migration = self._migration
        try:
            while not migration.done and migration.copied_bytes < self._may_copy:
                self._calls.take(2)  # the page, and a deletion of what is old on it
                page = await self._storage.list("", start_after=migration.cursor or None, with_metadata=True)
                is_whole = await self._walk(page.objects)
                if is_whole and page.cursor is None:
                    await bucket_format.note(self._platform)
                    migration.done, migration.ended = True, self._platform.now()
        except OutOfCalls:
            pass

    async def _walk(self, found: Sequence[StoredObject]) -> bool:
        """Look at the objects of a page, in order; False when it was left before its end."""
        migration, old = self._migration, list[str]()
        try:
            for one in found:
                if one.key.startswith(keys.OURS):
                    migration.cursor = keys.OURS + "~"  # behind everything that is ours
                    return False
                if migration.copied_bytes >= self._may_copy:
                    return False
                if _is_leftover(one.key) and not self._is_young(one):
                    old.append(one.key)
                await self._migrate(one)
                migration.cursor = one.key
                migration.objects += 1
            return True
        finally:
            if old:
                migration.young += len(old)  # should that fail
                await self._storage.delete(old)
                migration.young -= len(old)
                migration.leftovers += len(old)

    def _is_young(self, leftover: StoredObject) -> bool:
        is_young = self._platform.now() - leftover.uploaded < LEFTOVER_AGE
        self._migration.young += is_young
        return is_young

    async def _migrate(self, found: StoredObject) -> None:
        blob = keys.parse_blob(found.key)
        if blob is not None and blobs.is_sr_link(found):
            await self._migrate_link(found, *blob)
        manifest = keys.parse_manifest_digest(found.key)
        if manifest is not None and not (manifests.knows_subject(found) or manifests.is_tombstone(found)):
            await self._migrate_manifest(found, *manifest)
        if _REFERRERS_TAG.fullmatch(found.key):
            self._migration.referrers_tags += 1

    async def _migrate_link(self, found: StoredObject, name: RepositoryName, digest: Digest) -> None:
        self._calls.take(5)  # following links, the bytes, the copy
        blob = await blobs.resolve(self._platform, found, digest)
        if blob is None:
            self._problem(found.key, "leads to nothing")
            return
        if blob.data is None and blob.size >= blobs.LARGE_BLOB:
            self._calls.take(6)  # two links, each with its ref, that may be given up
        data = blob.data
        if data is None:
            try:
                data = await self._copy(found, digest, blob)
            except ChecksumMismatch:
                self._problem(found.key, f"leads to {blob.key}, whose bytes are not those of its digest")
                return
            except _CannotCopy as error:
                self._problem(found.key, f"leads to {blob.key}, which {error}")
                return
        if data is not None:
            await blobs.replace(self._platform, name, digest, data, etag=found.etag)
        self._migration.links += 1

    async def _copy(self, found: StoredObject, digest: Digest, blob: blobs.Blob) -> blobs.Data | None:
        """Copy a small blob to where the link is; of a large one make data, which the source links to, too."""
        if blob.size > MAX_PUT_SIZE:
            raise _CannotCopy("is too large to be copied at once: push it again")
        stored = await self._storage.get(blob.key)
        if stored is None:
            raise _CannotCopy("was deleted")
        try:
            if blob.size < blobs.LARGE_BLOB:
                await self._storage.put(found.key, stored.body, checksum=digest, only_if=found.etag)
                self._migration.copied_bytes += blob.size
                return None
            data = blobs.Data(blobs.new_id(self._platform), blob.size)
            await self._storage.put(data.key, stored.body, checksum=digest)
            self._migration.copied_bytes += blob.size
        finally:
            await stored.body.cancel()
        source = keys.parse_blob(blob.key)
        if source is not None:
            # The source links to the same bytes: what was at its key is stored once, not twice.
            await blobs.replace(self._platform, *source, data, etag=stored.object.etag)
        return data

    async def _migrate_manifest(self, found: StoredObject, name: RepositoryName, digest: Digest) -> None:
        self._calls.take(2)
        stored = await self._storage.get(found.key)
        if stored is None:
            return
        data = await stored.body.read(found.size)
        try:
            received = manifests.receive_stored(data, found.content_type, digest)
        except RegistryError as error:
            self._problem(found.key, error.message)
            return
        if received.manifest.subject is not None:
            await manifests.put_referrer(self._platform, name, received)
            self._migration.referrers += 1

    def _problem(self, key: str, reason: str) -> None:
        if len(self._migration.problems) < _MAX_PROBLEMS:
            self._migration.problems.append(f"{key} {reason}")


class _CannotCopy(Exception):
    """Why a blob cannot be copied."""
