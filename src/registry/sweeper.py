"""Freeing what belongs to no repository: data that no link leads to, and what uploads and SR left behind.

`_data/` and `_refs/` are both sorted by id, and are walked side by side. Data that is old and has no ref gets a marker;
then its refs are looked at again, and only then it is deleted. A mount writes its ref first and then looks for the
marker: either the second look sees the ref, or the mount the marker. The marker stays for a while after the data, so
that a mount which read its source before all this sees it, too.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from registry import blobs, keys
from registry.calls import Calls
from registry.log import log
from registry.names import RepositoryName
from registry.platform import Platform
from registry.sessions import SESSION_SECONDS
from registry.storage import MAX_DELETE_KEYS, Listing, MultipartUpload, StorageError, StoredObject
from registry.upload_log import UploadLog

DATA_AGE = 2 * SESSION_SECONDS  # seconds for which data without a link may belong to an upload session
MARKER_AGE = 3600  # seconds after which nobody is at work any more at what a marker stands for
LEFTOVER_AGE = 7 * 24 * 3600  # seconds after which what SR left is not in use: R2 drops its uploads by then
_CALLS_OF_ONE = 3  # of data that is freed: marker, second look, deletion

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(-helper)?", re.ASCII)
_SR_MARK = re.compile(rf"marker|last_update|{_UUID.pattern}", re.ASCII)


@dataclass(slots=True)
class Swept:
    """What a step freed."""

    objects: int = 0
    bytes: int = 0


async def sweep_data(platform: Platform, calls: Calls, after: str, swept: Swept) -> str | None:
    """Free data behind the id `after`; where to go on, None at the end. Raises OutOfCalls only before anything."""
    storage = platform.storage
    calls.take(3)
    now = platform.now()
    start_data, start_refs = (keys.data(after), f"{keys.refs(after)}~") if after else (None, None)
    data = await storage.list(keys.DATA, start_after=start_data)
    refs = _Refs(await storage.list(keys.REFS, start_after=start_refs))
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
        elif now - found.uploaded >= DATA_AGE and not is_at_work:
            if calls.left < _CALLS_OF_ONE:
                end = position
                break
            calls.take(_CALLS_OF_ONE)
            if await blobs.free_data(platform, data_id):
                swept.objects += 1
                swept.bytes += found.size
            else:
                spent.append(keys.condemned(data_id))
        position = data_id
    # Markers whose data is gone.
    spent += [
        keys.condemned(data_id)
        for data_id, uploaded in refs.marked.items()
        if now - uploaded >= MARKER_AGE and (end is None or data_id <= end)
    ]
    for at in range(0, len(spent), MAX_DELETE_KEYS):
        await storage.delete(spent[at : at + MAX_DELETE_KEYS])
    return end


class _Refs:
    """A page of refs: when markers were put, which ids have a ref, and the last id that it says everything of."""

    def __init__(self, page: Listing) -> None:
        self.marked: dict[str, float] = {}
        self.linked: set[str] = set()
        self.end: str | None = None  # None: of all
        last = before = ""
        for found in page.objects:
            data_id = found.key.removeprefix(keys.REFS).partition("/")[0]
            last, before = data_id, last if data_id != last else before
            if found.key == keys.condemned(data_id):
                self.marked[data_id] = found.uploaded
            else:
                self.linked.add(data_id)
        if page.cursor is not None:
            # One ref is enough to know; a marker alone is not.
            self.end = last if last in self.linked else before
            if last not in self.linked:
                self.marked.pop(last, None)


async def sweep_root(platform: Platform, calls: Calls, cursor: str, swept: Swept) -> str | None:
    """Delete SR's upload data, which lies at the root under its session's id, and collections nobody went on with.

    Returns where to go on, None at the end.
    """
    calls.take(3)
    now = platform.now()
    page = await platform.storage.list("", delimiter="/", cursor=cursor or None)
    old = [one for one in page.objects if _UUID.fullmatch(one.key) and now - one.uploaded >= LEFTOVER_AGE]
    if not cursor:
        runs = await platform.storage.list(keys.GC_RUNS)
        old += [one for one in runs.objects if now - one.uploaded >= DATA_AGE]
    await _delete(platform, old, swept)
    return page.cursor


async def sweep_repository(platform: Platform, calls: Calls, name: RepositoryName, swept: Swept) -> None:
    """Delete the logs of sessions that are over, with their multipart uploads, and what SR left in the repository."""
    storage = platform.storage
    calls.take(3)
    now = platform.now()
    prefix = f"{name}/uploads/"
    page = await storage.list(prefix)
    sessions: dict[str, list[StoredObject]] = {}
    old: list[StoredObject] = []
    for found in page.objects:
        session, _, rest = found.key.removeprefix(prefix).partition("/")
        if _UUID.fullmatch(session) is None:
            continue  # of a repository that is named like this folder
        if not rest:
            old += [found] if now - found.uploaded >= LEFTOVER_AGE else []
        elif keys.log_entry_start(keys.log(name, session), found.key) is not None:
            sessions.setdefault(session, []).append(found)
    for session, entries in sessions.items():
        if now - max(entry.uploaded for entry in entries) < DATA_AGE or calls.left < _CALLS_OF_ONE:
            continue
        calls.take(2)
        await _abort(platform, name, session, entries[-1].key)
        old += entries
    for folder in ("gc", "insertion"):
        if calls.left < 1:
            break
        calls.take(1)
        prefix = f"{name}/{folder}/"
        marks = await storage.list(prefix, delimiter="/")
        # By their names: a repository may be named like the folder, and have its register there.
        old += [
            one
            for one in marks.objects
            if _SR_MARK.fullmatch(one.key.removeprefix(prefix)) and now - one.uploaded >= LEFTOVER_AGE
        ]
    await _delete(platform, old, swept)


async def _abort(platform: Platform, name: RepositoryName, session: str, key: str) -> None:
    start = keys.log_entry_start(keys.log(name, session), key)
    assert start is not None
    try:
        entry = await UploadLog(platform, name, session).read(start)
    except StorageError as error:
        log("not-aborted", key=key, error=str(error))  # R2 drops it after seven days
        return
    if entry is not None:
        await entry.body.cancel()
        if entry.state.upload_id:
            upload = MultipartUpload(keys.data(entry.state.data_id), entry.state.upload_id)
            await platform.storage.abort_upload(upload)


async def _delete(platform: Platform, old: Sequence[StoredObject], swept: Swept) -> None:
    for at in range(0, len(old), MAX_DELETE_KEYS):
        await platform.storage.delete([one.key for one in old[at : at + MAX_DELETE_KEYS]])
    swept.objects += len(old)
    swept.bytes += sum(one.size for one in old)
