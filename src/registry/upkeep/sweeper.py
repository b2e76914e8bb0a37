"""Deletes orphaned data: data objects without a link, refs without a link, and the logs of old upload sessions.

`_data/` and `_refs/` are both sorted by id, and the sweeper walks them side by side. An old data object without a ref
gets a marker; then its refs are listed again, and only then it is deleted. A mount first writes its ref, and then looks
for the marker. So either the sweeper sees the ref, or the mount sees the marker. The marker stays for a while after the
data object, for a mount that read its source before the marker was written.

A ref is written before its link and deleted after it. So an interrupted push or deletion may leave an orphaned ref. The
sweeper checks each ref once a week, if it is at least two days old: by then, its link exists or never will.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from registry.content import blobs
from registry.ports.platform import Platform
from registry.ports.storage import IN_FLIGHT, MAX_DELETE_KEYS, Listing, MultipartUpload, StorageError, StoredObject
from registry.spec.errors import RegistryError
from registry.spec.names import RepositoryName, parse_digest, parse_name
from registry.storage import keys
from registry.storage.calls import Calls, pages
from registry.telemetry.log import log
from registry.uploads.log import UploadLog
from registry.uploads.sessions import SESSION_SECONDS

DATA_AGE = 2 * SESSION_SECONDS  # seconds for which a running session may need a data object or a ref that has no link
MARKER_AGE = 3600  # seconds after which no request depends on a marker any more
LOOK_DAYS = 7  # days in which each ref is checked once, with an R2 call; in a small bucket, each pass checks it
_DAY = 24 * 3600  # seconds
_CALLS_OF_ONE = 4  # R2 calls to free a data object: write the marker, list refs, delete the data and the marker
_CALLS_OF_PAGE = 10  # R2 calls of a page, at least: two listings, and deletions of refs and markers

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_DATA_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


@dataclass(slots=True)
class Swept:
    """How many objects and bytes a step deleted."""

    objects: int = 0
    bytes: int = 0


async def sweep_data(platform: Platform, calls: Calls, after: str, swept: Swept) -> str | None:
    """Free orphaned data objects with ids after `after`; return the id to continue after, None at the end.

    Raises OutOfCalls only before it changed anything.
    """
    storage = platform.storage
    calls.take(_CALLS_OF_PAGE)
    now = platform.now()
    start_data, start_refs = (keys.data(after), f"{keys.refs(after)}~") if after else (None, None)
    data = await storage.list(keys.DATA, start_after=start_data)
    page = await storage.list(keys.REFS, start_after=start_refs, with_metadata=True)
    orphans = await _orphans(platform, calls, page, is_all=not after and page.cursor is None)
    await _delete(platform, orphans, swept)
    refs = _Refs(page, {found.key for found in orphans})
    data_end = data.objects[-1].key.removeprefix(keys.DATA) if data.cursor is not None and data.objects else None
    end = min((one for one in (data_end, refs.end) if one is not None), default=None)
    spent: list[str] = []
    position = after
    for found in data.objects:
        data_id = found.key.removeprefix(keys.DATA)
        if end is not None and data_id > end:
            break
        marker = refs.marked.pop(data_id, None)
        is_at_work = marker is not None and now - marker < MARKER_AGE
        if data_id in refs.linked:
            if marker is not None and not is_at_work:
                spent.append(keys.condemned(data_id))
        elif now - found.uploaded >= DATA_AGE and not is_at_work and _DATA_ID.fullmatch(data_id) is not None:
            if calls.left < _CALLS_OF_ONE:
                end = position
                break
            calls.take(_CALLS_OF_ONE)
            try:
                is_freed = await blobs.free_data(platform, data_id)
            except StorageError as error:
                log("not-freed", key=found.key, error=str(error))
            else:
                swept.objects += is_freed
                swept.bytes += found.size if is_freed else 0
                spent += [] if is_freed else [keys.condemned(data_id)]
        position = data_id
    # Old markers whose data object is gone.
    spent += [
        keys.condemned(data_id)
        for data_id, uploaded in refs.marked.items()
        if now - uploaded >= MARKER_AGE and (end is None or data_id <= end)
    ]
    for at in range(0, len(spent), MAX_DELETE_KEYS):
        await storage.delete(spent[at : at + MAX_DELETE_KEYS])
    return end


class _Refs:
    """A page of refs: the upload times of markers, the ids that have a ref, and the last id fully on the page."""

    def __init__(self, page: Listing, without: set[str]) -> None:
        self.marked: dict[str, float] = {}
        self.linked: set[str] = set()
        self.end: str | None = None  # None: all ids
        last = before = ""
        for found in page.objects:
            data_id = found.key.removeprefix(keys.REFS).partition("/")[0]
            last, before = data_id, last if data_id != last else before
            if found.key == keys.condemned(data_id):
                self.marked[data_id] = found.uploaded
            elif found.key not in without:
                self.linked.add(data_id)
        if page.cursor is not None:
            # More refs of the last id may follow. One ref on this page proves that it is linked; a marker does not.
            self.end = last if last in self.linked else before
            if last not in self.linked:
                self.marked.pop(last, None)


async def _orphans(platform: Platform, calls: Calls, page: Listing, *, is_all: bool) -> list[StoredObject]:
    """Return the refs of a page whose link does not exist or name them. `is_all`: the bucket has only this page."""
    now = platform.now()
    due: list[StoredObject] = []
    for found in page.objects:
        data_id = found.key.removeprefix(keys.REFS).partition("/")[0]
        if _DATA_ID.fullmatch(data_id) is None or not blobs.digest_of_ref(found) or now - found.uploaded < DATA_AGE:
            continue
        if is_all or (int(now // _DAY) + int(data_id[:4], 16)) % LOOK_DAYS == 0:
            due.append(found)
    orphans: list[StoredObject] = []
    for at in range(0, len(due), IN_FLIGHT):
        some = due[at : at + IN_FLIGHT]
        if calls.left < len(some) + _CALLS_OF_ONE:
            break  # these refs are checked again a week later
        calls.take(len(some))
        are_linked = await asyncio.gather(*(_is_linked(platform, found) for found in some))
        orphans += [found for found, is_linked in zip(some, are_linked, strict=True) if not is_linked]
    return orphans


async def _is_linked(platform: Platform, ref: StoredObject) -> bool:
    """Whether a ref's link exists and names the ref; also True when that cannot be determined."""
    try:
        data_id, nonce, name = ref.key.removeprefix(keys.REFS).split("/", 2)
        key = keys.blob(parse_name(name), parse_digest(blobs.digest_of_ref(ref) or ""))
        link = await platform.storage.head(key)
        found = None if link is None else blobs.link_of(link)
    except (RegistryError, StorageError, ValueError) as error:
        log("ref-not-checked", key=ref.key, error=str(error))
        return True
    return found is not None and (found[0].id, found[1]) == (data_id, nonce)


async def sweep_uploads(
    platform: Platform, calls: Calls, name: RepositoryName, objects: Sequence[StoredObject] | None, swept: Swept
) -> None:
    """Delete the logs of expired upload sessions, and abort their multipart uploads. Raises OutOfCalls.

    `objects`, if given, are all objects of the repository.
    """
    async for entries in _sessions(platform, calls, name, objects):
        if platform.now() - max(entry.uploaded for entry in entries) >= DATA_AGE:
            calls.take(2 + len(entries) // MAX_DELETE_KEYS + 1)
            await _abort(platform, name, entries[-1].key)
            await _delete(platform, entries, swept)


async def _sessions(
    platform: Platform, calls: Calls, name: RepositoryName, objects: Sequence[StoredObject] | None
) -> AsyncIterator[list[StoredObject]]:
    """Yield the log entries of each upload session."""
    prefix = keys.folder(name, "uploads")
    entries: list[StoredObject] = []
    current = ""
    async for some in pages(platform, calls, prefix, objects):
        for found in some:
            session = found.key[len(prefix) :].partition("/")[0]
            if _UUID.fullmatch(session) is None or keys.log_entry_start(keys.log(name, session), found.key) is None:
                continue  # belongs to a repository whose name contains "/uploads/"
            if session != current and entries:
                yield entries
                entries = []
            current = session
            entries.append(found)
    if entries:
        yield entries


async def _abort(platform: Platform, name: RepositoryName, key: str) -> None:
    session, _, start = key[len(keys.folder(name, "uploads")) :].partition("/")
    try:
        entry = await UploadLog(platform, name, session).read(int(start))
        if entry is not None:
            await entry.body.cancel()
            if entry.state.upload_id:
                await platform.storage.abort_upload(
                    MultipartUpload(keys.data(entry.state.data_id), entry.state.upload_id)
                )
    except StorageError as error:
        log("not-aborted", key=key, error=str(error))  # R2 aborts the multipart upload after seven days


async def _delete(platform: Platform, old: Sequence[StoredObject], swept: Swept) -> None:
    for at in range(0, len(old), MAX_DELETE_KEYS):
        await platform.storage.delete([one.key for one in old[at : at + MAX_DELETE_KEYS]])
    swept.objects += len(old)
    swept.bytes += sum(one.size for one in old)
