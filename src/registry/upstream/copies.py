"""Streams a blob of an upstream to a client and into R2 at the same time, with one fetch (docs/adr/0012).

The code that stores the blob reads a source that first sends all bytes to the client. So the slower of the two sets the
pace, and nothing has to be buffered in between. The source holds the last bytes back until it has verified the digest,
so a client never takes wrong bytes for a complete blob.
"""

import asyncio
import contextlib
from typing import Self

from registry.content import blobs
from registry.ports.memory import Turns
from registry.ports.platform import ANSWER_SECONDS, COPY_BUFFER, Platform
from registry.ports.storage import MAX_PUT_SIZE, Buffer, ClientGone, Content, Pipe, PipeBroken, Source, StorageError
from registry.ports.tasks import beside
from registry.ports.web import WebError
from registry.spec.errors import RegistryError, is_failure
from registry.spec.names import Digest, RepositoryName
from registry.storage.transfer import Span, copy, through_pipe
from registry.telemetry.log import log
from registry.uploads.log import State
from registry.uploads.sessions import new_uuid
from registry.uploads.upload import Upload
from registry.upstream.exchange import Answer, UpstreamError
from registry.upstream.upstreams import Upstream

# Seconds for which a copy continues after its client disconnected. After 30 the runtime ends it (`waitUntil`) without
# any cleanup.
GRACE_SECONDS = 20
_WATCH_SECONDS = 5  # between two checks of the progress: one timer for the whole blob, because timers cost CPU time


class BlobCopy:
    """Copies one blob: the client reads `content` while `run` runs; without `content`, `store_first` stores it."""

    def __init__(
        self, platform: Platform, name: RepositoryName, digest: Digest, upstream: Upstream, answer: Answer
    ) -> None:
        self._platform = platform
        self._name = name
        self._digest = digest
        self._upstream = upstream
        client = None if answer.size is None else platform.streams.pipe(answer.size)
        self._passing = _Passing(platform, answer, client, digest, upstream.timeout)
        self.size = answer.size
        # None if the size is unknown: a client cannot detect that a body without a length broke off (docs/adr/0013).
        self.content = None if client is None else client.content

    async def run(self) -> None:
        """Send the blob to the client and store it. Failures are only logged, and the client's download breaks."""
        try:
            async with self._passing:
                try:
                    await self._store()
                except (StorageError, ClientGone, RegistryError) as error:
                    # R2 or the pipe to it failed: the client still gets the blob.
                    self._log("copy-not-stored", error)
                    await self._pass_the_rest()
        except WebError as error:
            self._log("copy-given-up", error)
        except BaseException as error:  # nothing awaits this coroutine's result, so the error would be lost
            if not is_failure(error):
                raise
            self._log("internal-error", error)

    async def store_first(self) -> None:
        """Store the blob before any byte is served. Raises UpstreamError and the storage's errors."""
        try:
            async with self._passing:
                await self._store()
        except WebError as error:
            self._log("copy-given-up", error)
            raise UpstreamError(self._upstream, str(error)) from None

    async def _store(self) -> None:
        source, size = self._passing, self.size
        if size is not None and size <= MAX_PUT_SIZE:

            async def write(pipe: Pipe) -> None:
                await copy(self._platform, Span(source, size), pipe, pool=self._platform.answers)
                await source.finish()

            async def store(content: Source) -> None:
                await blobs.put_whole(self._platform, self._name, self._digest, content)

            await through_pipe(self._platform, size, write, store)
            return
        # The length is unknown, or too long for one put: store the blob like an upload of one chunk.
        async with Upload(self._platform, self._name, new_uuid(self._platform)) as upload:
            entry = (await upload.append(State(), source, None)).entry
            if entry is None:
                await upload.close_without_chunks(self._digest)
            else:
                await upload.resume(entry)
                await upload.close(self._digest)

    async def _pass_the_rest(self) -> None:
        async with Turns(self._platform.answers) as turns:
            while self._passing.has_client and (await turns.next(self._passing, COPY_BUFFER))[1]:
                pass

    def _log(self, event: str, error: BaseException) -> None:
        log(event, upstream=self._upstream.host, repository=self._name, digest=str(self._digest), error=str(error))


class _Passing:
    """The upstream's bytes as a source, which sends the bytes to the client before its reader gets them."""

    def __init__(self, platform: Platform, answer: Answer, client: Pipe | None, digest: Digest, timeout: int) -> None:
        self._platform = platform
        self._source = answer.body
        self.size = answer.size
        self._client = client
        self._expected = digest
        self._timeout = timeout
        self._digester = platform.streams.digester(digest.algorithm)
        self._taken = 0  # bytes
        self._is_over = False  # the last byte was read and verified, or the copy failed
        self._is_served = client is None  # the client has all bytes or disconnected, or there is no client
        # Times are in seconds since the epoch.
        self._left: float | None = None  # when the client disconnected
        self._asked: float | None = None  # when the pending read of the upstream began
        self._sent: float | None = None  # when the pending write to the client began
        self._reason: str | None = None  # why the copy was given up
        # The read of a cancelled reader continues, and its bytes come before those of the next read.
        self._reading = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Start the watch for timeouts."""
        self._watching = asyncio.ensure_future(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection to the upstream. If the client lacks bytes, its download breaks."""
        self._watching.cancel()
        await self._source.cancel()
        async with self._reading:
            if not self._is_over:
                self._is_over = True
                await self._digester.abort()
            if self._client is not None and not self._is_served:
                self._is_served = True
                await self._client.abort()

    @property
    def has_client(self) -> bool:
        """Whether the client still reads."""
        return not self._is_served

    async def fill(self, buffer: Buffer, start: int, stop: int) -> int:
        """Read bytes and send them to the client. Raises WebError if the upstream breaks off or sends wrong bytes."""
        async with self._reading:
            at = start
            while at < stop and not self._is_over:
                at += await self._fill_some(buffer, at, min(stop, at + COPY_BUFFER))
            return at - start

    async def _fill_some(self, buffer: Buffer, start: int, stop: int) -> int:
        if self.size is not None:
            stop = min(stop, start + self.size - self._taken)
        self._asked = self._platform.now()
        count = await self._source.fill(buffer, start, stop)
        self._asked = None
        if self._reason is not None:
            raise WebError(self._reason)
        self._taken += count
        content = buffer.slice(start, start + count) if count else None
        if content is None or self._taken == self.size or count < stop - start:
            await self._pass_last(content)
        else:
            await beside(self._pass(content), self._digester.update(content))
        return count

    async def finish(self) -> None:
        """Verify the digest, unless the last read did: an empty blob is never read."""
        async with self._reading:
            if not self._is_over:
                await self._pass_last(None)

    async def _pass_last(self, content: Content | None) -> None:
        """Verify size and digest, then send the last bytes to the client."""
        self._is_over = True
        if content is not None:
            await self._digester.update(content)
        digest = await self._digester.digest()
        if self.size not in (None, self._taken):
            raise WebError(f"broke off after {self._taken} of {self.size} bytes")
        if digest != self._expected:
            raise WebError("sent bytes that do not match the digest")
        if content is not None:
            await self._pass(content)
        if self._client is not None and not self._is_served:
            with contextlib.suppress(PipeBroken):
                await self._client.close()
            self._is_served = True

    async def _pass(self, content: Content) -> None:
        if self._client is None or self._is_served:
            return
        self._sent = self._platform.now()
        try:
            await self._client.write(content)
        except PipeBroken:
            self._is_served, self._left = True, self._platform.now()
        finally:
            self._sent = None

    async def read(self, limit: int) -> bytes:
        """Refuse: no blob is read into Python's memory."""
        raise NotImplementedError

    async def cancel(self) -> None:
        """Cancel the rest of the body."""
        await self._source.cancel()

    async def _watch(self) -> None:
        """Give up a copy if the upstream is too slow, or if it takes too long after the client disconnected."""
        while self._reason is None:
            await self._platform.sleep(_WATCH_SECONDS)
            now = self._platform.now()
            if self._sent is not None and now - self._sent >= ANSWER_SECONDS and self._client is not None:
                await self._client.abort()  # frees the buffer that a slow client holds; the copy continues
            if self._asked is not None and now - self._asked >= self._timeout:
                self._reason = f"sent too little in {self._timeout} seconds"
            elif self._left is not None and now - self._left >= GRACE_SECONDS:
                self._reason = "the client disconnected, and the rest takes too long"
        await self._source.cancel()
