"""Uploads a blob to R2 in one pass over its bytes, for chunks of any size (docs/adr/0004).

A chunk is what a client sends in one PATCH. A part is R2's unit of a multipart upload. Chunks fill parts. Bytes that do
not fill a part become a piece in the session's log, and are joined to the bytes that follow. A blob that fills no part
needs no multipart upload.
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

# Pieces of a tail; more are joined into one. Each costs an R2 call when a part fills, and no request shall need more
# than 50 calls (docs/adr/0004).
MAX_PIECES = 32


class Upload:
    """One request to an upload session: resumes it, appends a chunk, closes or cancels it. Used with `async with`."""

    def __init__(self, platform: Platform, name: RepositoryName, session: str) -> None:
        self._platform = platform
        self._storage = platform.storage
        self._name = name
        self._log = UploadLog(platform, name, session)
        self._parts = Parts(platform, self._log)

    async def __aenter__(self) -> Self:
        """Return the upload."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection of the open log entry."""
        if self._parts.open is not None:
            await self._parts.open.body.cancel()

    async def resume(self, start: int | None) -> State | None:
        """Return the state in the log entry that starts at `start`; None when that entry is gone.

        Without `start`, return the state of a new session.
        """
        return State() if start is None else await self._resume(await self._log.read(start))

    async def resume_latest(self) -> State:
        """Return the current state of the session, found by listing its log."""
        return await self._resume(await self._log.latest()) or State()

    async def _resume(self, entry: Entry | None) -> State | None:
        await self.__aexit__()
        self._parts.open = entry
        return None if entry is None else entry.state

    # ------------------------------------------------------------------ append
    async def append(self, state: State, body: Source, expected: int | None) -> State:
        """Append a chunk after `state`; return the state after the chunk.

        `expected` is the size that Content-Range states, in bytes. Raises SIZE_INVALID for a body of another size, and
        OutOfDate when another chunk was written first.
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
        """Append a chunk of known size, which streams to R2 while it arrives."""
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
        """Append a chunk of unknown size, through buffers, because R2 takes no part of unknown length."""
        chunk = UnsizedChunk(self._platform, self._parts, self._append_buffer, state, body)
        return await chunk.run(expected, digester)

    async def _append_buffer(
        self, state: State, start: int, buffer: Buffer | None, count: int, digester: Digester | None
    ) -> State:
        """Write the log's next entry, with the bytes in a buffer as its piece."""

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
        """Write the log's next entry, for a chunk that began at `start`, with a piece of `size` bytes."""
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
        """Make the bytes of the resumed session the blob `digest`.

        Raises DIGEST_INVALID, after which nothing of the upload remains; OutOfDate when the log has a newer entry; and
        BLOB_UPLOAD_UNKNOWN when the upload was cancelled or closed meanwhile.
        """
        assert self._parts.open is not None
        state = self._parts.open.state
        if state.etags:
            await self._close_parts(self._parts.open, digest)
        else:
            await self._close_pieces(state, digest)
        await self._forget(state)

    async def _forget(self, state: State) -> None:
        """Delete the log of a session that succeeded or failed for good."""
        with tidying("the log of an upload"):
            await self._log.forget(state)

    async def close_without_chunks(self, digest: Digest) -> None:
        """Close a session without any bytes, which is valid only for the digest of the empty blob."""
        try:
            await blobs.store_small(self._platform, self._name, digest, b"")
        except ChecksumMismatch:
            raise mismatch(digest) from None

    async def is_done(self, digest: Digest) -> bool:
        """Whether the blob exists. If the log is gone, an earlier request then closed the session."""
        return await blobs.find(self._platform, self._name, digest) is not None

    async def _close_pieces(self, state: State, digest: Digest) -> None:
        """Close a session that filled no part: store all pieces with one put, which R2 verifies."""
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
                # Before the upload is aborted or completed: the client may have used an old location.
                await self._check_newest(state)
            if known is not None and known.algorithm == digest.algorithm and known != digest:
                await self._give_up(state)
                raise mismatch(digest)
            await self._parts.complete(state, last)
        except PartChanged:
            await self._give_up(state)
            raise OutOfDate from None
        except UploadGone:
            # An earlier or concurrent request completed the upload, if the object exists. Else it was cancelled.
            stored = await self._storage.head(data.key)
            if stored is None or stored.size != state.offset:
                raise gone() from None
            completed = False
            # An interrupted request may have verified the object already (docs/adr/0019).
            is_verified = is_verified or await blobs.is_verified(self._platform, data, digest)
        if not is_verified and await self._digest_of(data, digest.algorithm) != digest:
            if completed:
                await blobs.drop_data(self._platform, data)
            await self._forget(state)
            raise mismatch(digest)
        standing = blobs.Standing.OURS if completed else blobs.Standing.TWIN
        await blobs.link(self._platform, self._name, digest, data, standing)

    async def _give_up(self, state: State) -> None:
        """Abort the multipart upload and delete the log."""
        with tidying("a multipart upload"):
            await self._storage.abort_upload(multipart(state))
        await self._forget(state)

    async def _digest_of(self, data: blobs.Data, algorithm: str) -> Digest | None:
        stored = await self._storage.get(data.key)
        return None if stored is None else await digest_of(self._platform, stored.body, algorithm)

    async def _check_newest(self, state: State) -> None:
        """Raise OutOfDate when the log has a newer entry."""
        if not await self._log.is_newest(state):
            raise OutOfDate

    # ------------------------------------------------------------------ cancel
    async def cancel(self, state: State) -> None:
        """Delete everything that the session stored."""
        if state.upload_id:
            await self._storage.abort_upload(multipart(state))
        await self._log.forget(state)


def mismatch(digest: Digest) -> RegistryError:
    """Return DIGEST_INVALID for bytes that do not have this digest."""
    return RegistryError(Problem.DIGEST_INVALID, details=[{"digest": str(digest)}])
