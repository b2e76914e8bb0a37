"""A blob of an upstream on its way to a client and into R2 at the same time, each byte fetched once (docs/adr/0012).

What stores it reads it through a source that passes everything on to the client first: the slower of the two sets the
pace, and nothing piles up in between. The last bytes are held back until the digest is known to be right, so that wrong
bytes never look like a whole blob.
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
from registry.spec.errors import RegistryError, is_cpu_limit
from registry.spec.names import Digest, RepositoryName
from registry.storage.transfer import Span, copy, through_pipe
from registry.telemetry.log import log
from registry.uploads.log import State
from registry.uploads.sessions import new_uuid
from registry.uploads.upload import Upload
from registry.upstream.exchange import Answer, UpstreamError
from registry.upstream.upstreams import Upstream

# Seconds that a copy goes on without its client. After 30 the runtime ends it (`waitUntil`), with nothing tidied.
GRACE_SECONDS = 20
_WATCH_SECONDS = 5  # between two looks at how it goes: one timer for the whole blob, since timers cost


class BlobCopy:
    """One blob on its way: either `content` is for the client and `run` goes on beside it, or it is stored first."""

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
        # None when the size is unknown: a client cannot see that a body without a length breaks (docs/adr/0013).
        self.content = None if client is None else client.content

    async def run(self) -> None:
        """Pass on and store. Never raises: what goes wrong is logged, and a client that is still there sees it."""
        try:
            async with self._passing:
                try:
                    await self._store()
                except (StorageError, ClientGone, RegistryError) as error:
                    # R2 failed, or its end of a pipe: that is nothing to the client.
                    self._log("copy-not-stored", error)
                    await self._pass_the_rest()
        except WebError as error:
            self._log("copy-given-up", error)
        except BaseException as error:  # nobody awaits this; the client must not wait for ever
            if not (isinstance(error, Exception) or is_cpu_limit(error)):
                raise
            self._log("internal-error", error)

    async def store_first(self) -> None:
        """Store it before anything is served. Raises UpstreamError, and what the storage raises."""
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
        # As if it were pushed in one chunk: nobody knows its length, or it is too long for one put.
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
    """The upstream's bytes as a source: what is read of it was passed on to the client."""

    def __init__(self, platform: Platform, answer: Answer, client: Pipe | None, digest: Digest, timeout: int) -> None:
        self._platform = platform
        self._source = answer.body
        self.size = answer.size
        self._client = client
        self._expected = digest
        self._timeout = timeout
        self._digester = platform.streams.digester(digest.algorithm)
        self._taken = 0  # bytes
        self._is_over = False  # all was read and looked at, or it broke
        self._is_served = client is None  # the client has all of it, or is gone, or there is none
        self._left: float | None = None  # when the client went away, in seconds since the epoch
        self._asked: float | None = None  # since when the upstream is waited for
        self._sent: float | None = None  # since when the client is waited for
        self._reason: str | None = None  # why it was given up
        # A reader that is cancelled leaves a read behind, whose bytes come before those of the next one.
        self._reading = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Watch over it."""
        self._watching = asyncio.ensure_future(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Free the connection; a client that did not get all of it sees its download break."""
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
        """Whether somebody still listens."""
        return not self._is_served

    async def fill(self, buffer: Buffer, start: int, stop: int) -> int:
        """Read, pass on, return. Raises WebError when the upstream breaks off, or sent something else."""
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
        """After the last byte; an empty blob has none, and was not read."""
        async with self._reading:
            if not self._is_over:
                await self._pass_last(None)

    async def _pass_last(self, content: Content | None) -> None:
        """Pass the last bytes on, once it is known that all of them are right."""
        self._is_over = True
        if content is not None:
            await self._digester.update(content)
        digest = await self._digester.digest()
        if self.size not in (None, self._taken):
            raise WebError(f"broke off after {self._taken} of {self.size} bytes")
        if digest != self._expected:
            raise WebError("sent other bytes than those of the digest")
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
        """Nobody reads a blob into Python."""
        raise NotImplementedError

    async def cancel(self) -> None:
        """Give up what was not read."""
        await self._source.cancel()

    async def _watch(self) -> None:
        """Give up an upstream that is too slow, and a copy that takes too long without its client."""
        while self._reason is None:
            await self._platform.sleep(_WATCH_SECONDS)
            now = self._platform.now()
            if self._sent is not None and now - self._sent >= ANSWER_SECONDS and self._client is not None:
                await self._client.abort()  # its buffer is wanted; the copy goes on
            if self._asked is not None and now - self._asked >= self._timeout:
                self._reason = f"sent next to nothing for {self._timeout} seconds"
            elif self._left is not None and now - self._left >= GRACE_SECONDS:
                self._reason = "the client went away, and the rest takes too long"
        await self._source.cancel()
