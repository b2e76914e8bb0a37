"""Migrates a bucket of serverless-registry to this registry's format, in one step for each request.

Pulls and pushes work without the migration. Deletions do not: a link of serverless-registry names another repository's
blob without protecting it, so nothing may be deleted while such links exist. The migration walks over every key once
and

- replaces each link of serverless-registry. A small blob is copied. The bytes of a large blob become one data object,
  to which all repositories link. A dangling or invalid link stays, and is reported as a problem;
- writes the referrers entries of manifests that serverless-registry stored without one (spec, "Enabling the Referrers
  API"), and counts the tags in which clients keep such lists themselves;
- deletes leftovers of serverless-registry: the data and states of its uploads, and the markers of its garbage
  collection. A leftover younger than a week may be in use: another migration a week later deletes it.
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

COPIED_BYTES = 4 * 1024**3  # that one step copies, approximately: a client waits for the answer
LEFTOVER_AGE = 7 * 24 * 3600  # seconds after which a leftover is unused: R2 aborts multipart uploads by then
_MAX_PROBLEMS = 100  # that are reported to the operator

# Spec, "Referrers Tag Schema": the tag in which a client keeps the referrers of a digest.
_REFERRERS_TAG = re.compile(r".*/manifests/sha(256-[a-f0-9]{64}|512-[a-f0-9]{64,128})", re.ASCII)
# Leftovers of serverless-registry: the data of an upload session at the root of the bucket, its state in the
# repository, and the markers of garbage collection.
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(-helper)?"
_LEFTOVER = re.compile(rf"{_UUID}|(?P<name>.+)/(uploads/{_UUID}|(gc|insertion)/(marker|last_update|{_UUID}))", re.ASCII)


@dataclass(slots=True)
class Migration:
    """The progress of the migration. The counts cover all steps so far."""

    done: bool = False
    cursor: str = ""  # the last key that was visited
    objects: int = 0  # visited
    links: int = 0  # of serverless-registry, replaced by our links or copies
    copied_bytes: int = 0
    referrers: int = 0  # referrers entries written
    referrers_tags: int = 0  # referrers lists that clients keep in tags
    problems: list[str] = field(default_factory=list)  # keys that could not be migrated, with reasons
    leftovers: int = 0  # deleted
    young: int = 0  # leftovers that may be in use, not deleted
    ended: float = 0.0  # when the migration was done, in seconds since the epoch


async def step(platform: Platform, r2_calls: int) -> Migration:
    """Do the next step, with at most `r2_calls` R2 calls. When the migration is done, only report that.

    If it left young leftovers, a request a week after its end begins another migration.
    """
    migration = await _read(platform)
    if migration.done and not (migration.young and platform.now() - migration.ended >= LEFTOVER_AGE):
        return migration
    if migration.done:
        migration = Migration()
    try:
        await _Step(platform, migration, r2_calls).run()
    finally:
        # Save the progress even if the step failed.
        attributes = Attributes("application/json")
        await platform.storage.put(keys.MIGRATION, json.dumps(asdict(migration)).encode(), attributes)
    return migration


async def _read(platform: Platform) -> Migration:
    stored = await platform.storage.get(keys.MIGRATION)
    if stored is None:
        return Migration(done=await bucket_format.is_ours(platform))
    return Migration(**json.loads(await stored.body.read(stored.object.size)))


def _is_leftover(key: str) -> bool:
    """Whether the key is a leftover of serverless-registry's uploads or garbage collection."""
    match = _LEFTOVER.fullmatch(key)
    try:
        return match is not None and (match["name"] is None or bool(parse_name(match["name"])))
    except RegistryError:
        return False


class _Step:
    """One step of the migration."""

    def __init__(self, platform: Platform, migration: Migration, r2_calls: int) -> None:
        self._platform = platform
        self._storage = platform.storage
        self._migration = migration
        self._calls = Calls(r2_calls - 3)  # three: read and write the progress, write the bucket format
        self._may_copy = migration.copied_bytes + COPIED_BYTES

    async def run(self) -> None:
        """Visit keys until the R2 calls run out, COPIED_BYTES were copied, or no key is left."""
        migration = self._migration
        try:
            while not migration.done and migration.copied_bytes < self._may_copy:
                self._calls.take(2)  # list a page, delete its leftovers
                page = await self._storage.list("", start_after=migration.cursor or None, with_metadata=True)
                is_whole = await self._walk(page.objects)
                if is_whole and page.cursor is None:
                    await bucket_format.note(self._platform)
                    migration.done, migration.ended = True, self._platform.now()
        except OutOfCalls:
            pass

    async def _walk(self, found: Sequence[StoredObject]) -> bool:
        """Visit the objects of a page, in order; False when the visit stopped before the end of the page."""
        migration, old = self._migration, list[str]()
        try:
            for one in found:
                if one.key.startswith(keys.OURS):
                    migration.cursor = keys.OURS + "~"  # after all keys of this registry's own
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
                migration.young += len(old)  # counted as such in case the deletion fails
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
        self._calls.take(5)  # follow links, read the bytes, write the copy
        blob = await blobs.resolve(self._platform, found, digest)
        if blob is None:
            self._problem(found.key, "is a dangling or invalid link: push the blob again")
            return
        if blob.data is None and blob.size >= blobs.LARGE_BLOB:
            self._calls.take(6)  # two links, each with a ref that may have to be deleted
        data = blob.data
        if data is None:
            try:
                data = await self._copy(found, digest, blob)
            except ChecksumMismatch:
                self._problem(found.key, f"leads to {blob.key}, whose bytes do not match its digest: push it again")
                return
            except _CannotCopy as error:
                self._problem(found.key, f"leads to {blob.key}, which {error}")
                return
        if data is not None:
            await blobs.replace(self._platform, name, digest, data, etag=found.etag)
        self._migration.links += 1

    async def _copy(self, found: StoredObject, digest: Digest, blob: blobs.Blob) -> blobs.Data | None:
        """Copy a small blob to the key of the link. Make a large one a data object, which its source links to as well.

        Returns the data object, None for a small blob.
        """
        if blob.size > MAX_PUT_SIZE:
            raise _CannotCopy("is too large to be copied: push the blob again")
        stored = await self._storage.get(blob.key)
        if stored is None:
            raise _CannotCopy("was deleted meanwhile")
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
            # The source gets a link too, so that the bytes are stored only once.
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
    """A blob cannot be copied. The message continues a sentence about the blob."""
