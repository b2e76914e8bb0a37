"""A storage that retries failed calls where that is safe, and finds out whether a call with a lost reply took effect.

A conditional write has a random nonce in its metadata: a stored object with equal metadata is the caller's own write.
"""

import contextlib
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TypeVar, Unpack

from registry.ports.storage import (
    ABSENT,
    NO_ATTRIBUTES,
    Attributes,
    ChecksumMismatch,
    Content,
    Listing,
    ListOptions,
    MultipartUpload,
    PartChanged,
    PutOptions,
    Source,
    Storage,
    StorageBusy,
    StorageError,
    StoredBody,
    StoredObject,
    UploadGone,
)
from registry.spec.ranges import ByteRange
from registry.telemetry.log import log

T = TypeVar("T")

# Seconds before the second and the third attempt.
_DELAYS = (0.1, 0.5)
_BUSY_DELAYS = (1.1, 2.2)  # R2 takes one write a second to a key
# Errors that are R2's answer, not a failure: a retry would have the same result.
_FINAL = (ChecksumMismatch, UploadGone, PartChanged)

NEVER = -math.inf

_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


@contextlib.contextmanager
def sent_by(deadline: float) -> Iterator[None]:
    """Within the `with` block, send no retry after `deadline` (seconds since the epoch): for work with a time limit.

    With NEVER, each call is sent once.
    """
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


class RetryingStorage:
    """A `Storage` that retries the calls of another one. It calls `before` with the method's name at each attempt."""

    def __init__(
        self,
        storage: Storage,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        before: Callable[[str], None],
    ) -> None:
        self._storage = storage
        self._now = now
        self._sleep = sleep
        self._before = before

    async def _retry(self, name: str, call: Callable[[], Awaitable[T]], *, only_busy: bool = False) -> T:
        """Call, and retry after a failure; with `only_busy` only after StorageBusy, since then nothing took effect."""
        for delay, busy_delay in zip(_DELAYS, _BUSY_DELAYS, strict=True):
            self._before(name)
            try:
                return await call()
            except _FINAL:
                raise
            except StorageError as error:
                is_busy = isinstance(error, StorageBusy)
                pause = busy_delay if is_busy else delay
                if (only_busy and not is_busy) or self._now() + pause > _deadline.get():
                    raise
            await self._sleep(pause)
        self._before(name)
        return await call()

    async def head(self, key: str) -> StoredObject | None:
        return await self._retry("head", lambda: self._storage.head(key))

    async def get(self, key: str, byte_range: ByteRange | None = None) -> StoredBody | None:
        return await self._retry("get", lambda: self._storage.get(key, byte_range))

    async def put(
        self,
        key: str,
        content: bytes | Source | Content,
        attributes: Attributes = NO_ATTRIBUTES,
        **options: Unpack[PutOptions],
    ) -> StoredObject | None:
        checksum, only_if = options.get("checksum"), options.get("only_if")
        attempts = 0

        async def attempt() -> StoredObject | None:
            nonlocal attempts
            attempts += 1
            return await self._storage.put(key, content, attributes, **options)

        async def found_ours() -> StoredObject | None:
            found = await self.head(key)
            if found is None:
                return None
            same_nonce = bool(attributes.metadata) and dict(found.metadata) == dict(attributes.metadata)
            same_bytes = only_if is None and checksum is not None and found.checksum == checksum
            return found if same_nonce or same_bytes else None

        is_stream = isinstance(content, Source)
        if is_stream or only_if == ABSENT:
            # Neither is sent again, but it may have arrived. A stream cannot be sent twice. An object that is only
            # created may have arrived and have been deleted since, for a reason: a retry must not restore it.
            try:
                if is_stream:
                    self._before("put")
                    return await attempt()
                return await self._retry("put", attempt, only_busy=True)
            except (*_FINAL, StorageBusy):
                raise
            except StorageError:
                if (found := await found_ours()) is not None:
                    return found
                raise
        stored = await self._retry("put", attempt)
        # The condition failed after an attempt whose reply was lost: perhaps because of that attempt's own object.
        return await found_ours() if stored is None and attempts > 1 else stored

    async def delete(self, keys: Sequence[str]) -> None:
        await self._retry("delete", lambda: self._storage.delete(keys))

    async def list(self, prefix: str, **options: Unpack[ListOptions]) -> Listing:
        return await self._retry("list", lambda: self._storage.list(prefix, **options))

    async def create_upload(self, key: str, attributes: Attributes = NO_ATTRIBUTES) -> MultipartUpload:
        # If the reply was lost, R2 drops the unused upload after seven days.
        return await self._retry("create_upload", lambda: self._storage.create_upload(key, attributes))

    async def upload_part(self, upload: MultipartUpload, number: int, content: Content | Source) -> str:
        if isinstance(content, Source):
            self._before("upload_part")
            return await self._storage.upload_part(upload, number, content)
        return await self._retry("upload_part", lambda: self._storage.upload_part(upload, number, content))

    async def complete_upload(self, upload: MultipartUpload, etags: Sequence[str]) -> StoredObject:
        # After a lost reply the second attempt raises UploadGone; then the caller looks for the object.
        return await self._retry("complete_upload", lambda: self._storage.complete_upload(upload, etags))

    async def abort_upload(self, upload: MultipartUpload) -> None:
        await self._retry("abort_upload", lambda: self._storage.abort_upload(upload))


class tidying(contextlib.AbstractContextManager[None]):  # noqa: N801 - reads as a word: `with tidying("the log"):`
    """For cleaning up after a success or another error: a failure is logged, and the sweeper cleans up later."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        """Suppress StorageError, and no other error."""
        if isinstance(error, StorageError):
            log("left-for-the-sweeper", what=self._what, error=str(error))
            return True
        return False
