"""Uploading blobs: one pass over the bytes into R2, whatever the client's chunks (docs/adr/0004).

A chunk is what a client sends in one PATCH; a part is R2's piece of a multipart upload. Chunks fill parts; what fills
none waits in the session's log as a piece and is joined to the bytes that follow. A blob that fills no part never
becomes a multipart upload.
"""

from collections.abc import Awaitable, Callable
from typing import Self

from registry.content import blobs
from registry.ports.platform import Platform
from registry.ports.retries import tidying
from registry.ports.storage import (
    Buffer,
    ChecksumMismatch,
    Digester,
    PartChanged,
    Pipe,
    Source,
    UploadGone,
)
from registry.spec.errors import Problem, RegistryError
from registry.spec.names import Digest, RepositoryName
from registry.storage import keys
from registry.storage.transfer import Span, copy, digest_of, through_pipe
from registry.uploads.log import ALGORITHM, Entry, OutOfDate, State, UploadLog, gone
from registry.uploads.parts import Parts, multipart, part_size_for
from registry.uploads.unsized_chunks import UnsizedChunk, wrong_size

# Pieces of a tail: more are joined into one, for each is a call when a part fills, and a request has 50 of them.
MAX_PIECES = 32


class Upload:
    """One request to one upload session: resumes it, appends a chunk, closes, cancels. Used in an `async with`."""

    def __init__(self, platform: Platform, name: RepositoryName, session: str) -> None:
        self._platform = platform
        self._storage = platform.storage
        self._name = name
        self._log = UploadLog(platform, name, session)
        self._parts = Parts(platform, self._log)

    async def __aenter__(self) -> Self:
        """Begin."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Free the connection of the entry that is open."""
        if self._parts.open is not None:
            await self._parts.open.body.cancel()

    async def resume(self, start: int | None) -> State | None:
        """Where the session stood at the entry that starts there, or at its beginning; None when the entry is gone."""
        return State() if start is None else await self._resume(await self._log.read(start))

    async def resume_latest(self) -> State:
        """Where the session stands, found by listing."""
        return await self._resume(await self._log.latest()) or State()

    async def _resume(self, entry: Entry | None) -> State | None:
        await self.__aexit__()
        self._parts.open = entry
        return None if entry is None else entry.state

    # ------------------------------------------------------------------ append
    async def append(self, state: State, body: Source, expected: int | None) -> State:
        """Append a chunk to what `state` has; returns the state after it.

        `expected`: the bytes that Content-Range promised; a body of another size is SIZE_INVALID. Raises OutOfDate
        when another chunk was faster.
        """
        if expected is not None and body.size is not None and body.size != expected:
            raise wrong_size()
        if body.size == 0:
            return state
        digester = self._platform.streams.digester(ALGORITHM) if state.offset == 0 else None
        try:
            if body.size is None:
                return await self._append_unknown(state, body, expected, digester)
            return await self._append_known(state, body, body.size, digester)
        except BaseException as error:
            if digester is not None:
                await digester.abort()
            await self._parts.drop_created()
            if isinstance(error, UploadGone):
                raise gone() from None
            raise

    async def _append_known(self, state: State, body: Source, size: int, digester: Digester | None) -> State:
        """A chunk whose size is known is passed on while it arrives."""
        start, left = state.offset, size
        part_size = state.part_size or part_size_for(state.tail_size + size)
        while state.tail_size + left >= part_size:
            state = await self._parts.begin(state, part_size)
            span = Span(body, part_size - state.tail_size)
            left -= span.size
            state = await self._parts.stream(state, span, digester)

        async def write(pipe: Pipe) -> None:
            await copy(self._platform, Span(body, left), pipe, digester)

        return await self._append_entry(state, start, left, write, digester)

    async def _append_unknown(
        self, state: State, body: Source, expected: int | None, digester: Digester | None
    ) -> State:
        """A chunk of unknown size: its bytes are read into buffers, since R2 takes no part of unknown length."""
        chunk = UnsizedChunk(self._platform, self._parts, self._append_buffer, state, body)
        return await chunk.run(expected, digester)

    async def _append_buffer(
        self, state: State, start: int, buffer: Buffer | None, count: int, digester: Digester | None
    ) -> State:
        """Keep what is in a buffer as a piece."""

        async def write(pipe: Pipe) -> None:
            if buffer is not None and count:
                content = buffer.slice(0, count)
                await pipe.write(content)
                if digester is not None:
                    await digester.update(content)

        return await self._append_entry(state, start, count, write, digester)

    async def _append_entry(
        self, state: State, start: int, size: int, write: Callable[[Pipe], Awaitable[None]], digester: Digester | None
    ) -> State:
        """Write the log's next entry, for a chunk that began at `start`, with `size` bytes that filled no part."""
        if len(state.tail) < MAX_PIECES:
            appended = await self._log.append(state.with_entry(start), size, write, digester)
            self._parts.keep_created()
            return appended

        async def write_joined(pipe: Pipe) -> None:
            await self._parts.write_tail(state, pipe)
            await write(pipe)

        joined = state.without_tail().with_entry(start)
        appended = await self._log.append(joined, state.tail_size + size, write_joined, digester)
        self._parts.keep_created()
        return appended

    # ------------------------------------------------------------------ close
    async def close(self, digest: Digest) -> None:
        """Make what the session has, as it was resumed, the blob `digest`.

        Raises DIGEST_INVALID, after which nothing of the upload remains; OutOfDate when a newer entry follows; and
        BLOB_UPLOAD_UNKNOWN when the upload was cancelled or dropped meanwhile.
        """
        assert self._parts.open is not None
        state = self._parts.open.state
        if state.etags:
            await self._close_parts(self._parts.open, digest)
        else:
            await self._close_pieces(state, digest)
        await self._forget(state)

    async def _forget(self, state: State) -> None:
        """The session is over, well or not."""
        with tidying("the log of an upload"):
            await self._log.forget(state)

    async def close_without_chunks(self, digest: Digest) -> None:
        """A session without a byte can only be the empty blob."""
        try:
            await blobs.store_small(self._platform, self._name, digest, b"")
        except ChecksumMismatch:
            raise mismatch(digest) from None

    async def is_done(self, digest: Digest) -> bool:
        """When the log is gone: whether it is because the blob is there, and only the reply was lost."""
        return await blobs.find(self._platform, self._name, digest) is not None

    async def _close_pieces(self, state: State, digest: Digest) -> None:
        """No part was filled: the pieces together are one put, which R2 verifies."""
        data_id = blobs.new_id(self._platform)

        async def write(pipe: Pipe) -> None:
            await self._parts.write_tail(state, pipe)

        async def store(content: Source) -> None:
            if state.offset < blobs.LARGE_BLOB:
                await blobs.store_small(self._platform, self._name, digest, content)
            else:
                await self._storage.put(keys.data(data_id), content, checksum=digest)

        try:
            await through_pipe(self._platform, state.offset, write, store)
        except ChecksumMismatch:
            await self._check_newest(state)
            await self._forget(state)
            raise mismatch(digest) from None
        if state.offset >= blobs.LARGE_BLOB:
            await blobs.link(self._platform, self._name, digest, blobs.Data(data_id, state.offset))

    async def _close_parts(self, entry: Entry, digest: Digest) -> None:
        state = entry.state
        data = blobs.Data(state.data_id, state.offset)
        is_verified, completed = False, True
        try:
            last = await self._parts.store_last(state)
            known = await entry.digest_behind_piece()
            is_verified = known == digest
            if not is_verified:
                # Before an upload is given up or joined: the client may have named an old location.
                await self._check_newest(state)
            if known is not None and known.algorithm == digest.algorithm and known != digest:
                await self._give_up(state)
                raise mismatch(digest)
            await self._parts.complete(state, last)
        except PartChanged:
            await self._give_up(state)
            raise OutOfDate from None
        except UploadGone:
            # Asked again after a lost reply, or beside a twin: then the object is there. Else it was cancelled.
            stored = await self._storage.head(data.key)
            if stored is None or stored.size != state.offset:
                raise gone() from None
            completed = False
            # What broke off when all was read need not be read again (docs/adr/0019).
            is_verified = is_verified or await blobs.is_verified(self._platform, data, digest)
        if not is_verified and await self._digest_of(data, digest.algorithm) != digest:
            if completed:
                await blobs.drop_data(self._platform, data)
            await self._forget(state)
            raise mismatch(digest)
        standing = blobs.Standing.OURS if completed else blobs.Standing.TWIN
        await blobs.link(self._platform, self._name, digest, data, standing)

    async def _give_up(self, state: State) -> None:
        """Drop the session and its parts."""
        with tidying("a multipart upload"):
            await self._storage.abort_upload(multipart(state))
        await self._forget(state)

    async def _digest_of(self, data: blobs.Data, algorithm: str) -> Digest | None:
        stored = await self._storage.get(data.key)
        return None if stored is None else await digest_of(self._platform, stored.body, algorithm)

    async def _check_newest(self, state: State) -> None:
        """Raise OutOfDate when a newer entry follows."""
        if not await self._log.is_newest(state):
            raise OutOfDate

    # ------------------------------------------------------------------ cancel
    async def cancel(self, state: State) -> None:
        """Give everything back."""
        if state.upload_id:
            await self._storage.abort_upload(multipart(state))
        await self._log.forget(state)


def mismatch(digest: Digest) -> RegistryError:
    """DIGEST_INVALID for bytes that are not those of `digest`."""
    return RegistryError(Problem.DIGEST_INVALID, details=[{"digest": str(digest)}])
