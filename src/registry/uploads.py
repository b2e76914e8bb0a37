"""Uploading blobs: one pass over the bytes into R2, whatever the client's chunks (DESIGN section 4).

A chunk is what a client sends in one PATCH; a part is R2's piece of a multipart upload. Chunks fill parts; what fills
none waits in the session's log as a piece and is joined to the bytes that follow. A blob that fills no part never
becomes a multipart upload.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Self

from registry import blobs, keys
from registry.buffers import Lease
from registry.errors import Problem, RegistryError
from registry.names import Digest, RepositoryName
from registry.platform import Platform
from registry.retries import tidying
from registry.storage import (
    MAX_PARTS,
    Buffer,
    ChecksumMismatch,
    Digester,
    MultipartUpload,
    PartChanged,
    Pipe,
    Source,
    UploadGone,
)
from registry.transfer import Span, copy, digest_of, through_pipe
from registry.upload_log import ALGORITHM, Entry, OutOfDate, State, UploadLog, gone

SMALL_PART = 8 * 1024 * 1024  # bytes; also the buffer that a chunk of unknown length is read into
# Pieces of a tail: more are joined into one, for each is a call when a part fills, and a request has 50 of them.
MAX_PIECES = 32
_CLOSE_ATTEMPTS = 4  # of twins that close the same session at once
LARGE_PART = 32 * 1024 * 1024  # bytes; when the chunk that fills the first part says that it is at least this long


class Upload:
    """One request to one upload session: resumes it, appends a chunk, closes, cancels. Used in an `async with`."""

    def __init__(self, platform: Platform, name: RepositoryName, session: str) -> None:
        self._platform = platform
        self._storage = platform.storage
        self._name = name
        self._log = UploadLog(platform, name, session)
        self._open: Entry | None = None  # the entry that was resumed from: its piece needs no second read
        self._created: MultipartUpload | None = None  # by this request, and in no entry of the log yet

    async def __aenter__(self) -> Self:
        """Begin."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Free the connection of the entry that is open."""
        if self._open is not None:
            await self._open.body.cancel()

    async def resume(self, start: int | None) -> State | None:
        """Where the session stood at the entry that starts there, or at its beginning; None when the entry is gone."""
        return State() if start is None else await self._resume(await self._log.read(start))

    async def resume_latest(self) -> State:
        """Where the session stands, found by listing."""
        return await self._resume(await self._log.latest()) or State()

    async def _resume(self, entry: Entry | None) -> State | None:
        await self.__aexit__()
        self._open = entry
        return None if entry is None else entry.state

    # ------------------------------------------------------------------ append
    async def append(self, state: State, body: Source, expected: int | None) -> State:
        """Append a chunk to what `state` has; returns the state after it.

        `expected`: the bytes that Content-Range promised; a body of another size is SIZE_INVALID. Raises OutOfDate
        when another chunk was faster.
        """
        if expected is not None and body.size is not None and body.size != expected:
            raise _wrong_size()
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
            if self._created is not None:
                with tidying("a multipart upload"):
                    await self._storage.abort_upload(self._created)
            if isinstance(error, UploadGone):
                raise gone() from None
            raise

    async def _append_known(self, state: State, body: Source, size: int, digester: Digester | None) -> State:
        """A chunk whose size is known is passed on while it arrives."""
        start, left = state.offset, size
        part_size = state.part_size or (LARGE_PART if state.tail_size + size >= LARGE_PART else SMALL_PART)
        while state.tail_size + left >= part_size:
            state = await self._with_parts(state, part_size)
            span = Span(body, part_size - state.tail_size)
            left -= span.size
            state = await self._stream_part(state, span, digester)

        async def write(pipe: Pipe) -> None:
            await copy(self._platform, Span(body, left), pipe, digester)

        return await self._append_entry(state, start, left, write, digester)

    async def _append_unknown(
        self, state: State, body: Source, expected: int | None, digester: Digester | None
    ) -> State:
        """A chunk of unknown size fills one buffer while the part in another is stored, if there is room for two."""
        pool, before = self._platform.buffers, state.offset
        with contextlib.ExitStack() as leases:
            buffers = [leases.enter_context(await pool.take(SMALL_PART))]
            second = pool.take_now(SMALL_PART)
            if second is not None:
                buffers.append(leases.enter_context(second))
            state, start, rest = await self._fill_parts(state, body, digester, buffers)
            size = state.offset + rest - before
            if expected is not None and size != expected:
                raise _wrong_size()
            if state.offset + rest == start:
                return state  # nothing behind the last entry: it has the state already
            return await self._append_buffer(state, start, buffers[0].buffer, rest, digester)

    async def _fill_parts(
        self, state: State, body: Source, digester: Digester | None, buffers: list[Lease]
    ) -> tuple[State, int, int]:
        """Read a body to its end, storing every part it fills.

        Returns the state with those parts, where its next entry starts, and how many bytes are left in `buffers[0]`.
        """
        start = state.offset
        part_size, tail = state.part_size or SMALL_PART, state.tail_size
        storing: asyncio.Future[State] | None = None
        try:
            while True:
                wanted = min(SMALL_PART, part_size - tail)
                count = await self._platform.buffers.fill(body, buffers[0], wanted)
                if storing is not None:
                    state, storing = await storing, None
                if count < wanted:
                    return state, start, count
                if tail + count == part_size:
                    state = await self._with_parts(state, part_size)
                    storing = asyncio.ensure_future(self._store_part(state, buffers[0].buffer, count, digester))
                    if len(buffers) == 1:
                        state, storing = await storing, None
                    tail = 0
                else:
                    # A part larger than the buffer, in a session that began with a known size: keep what is here.
                    state = await self._append_buffer(state, start, buffers[0].buffer, count, None)
                    start, tail = state.offset, state.tail_size
                buffers.reverse()
        finally:
            if storing is not None:
                await asyncio.wait((storing,))

    async def _append_buffer(
        self, state: State, start: int, buffer: Buffer, count: int, digester: Digester | None
    ) -> State:
        """Keep what is in a buffer as a piece."""

        async def write(pipe: Pipe) -> None:
            if count:
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
            return await self._log.append(state.with_entry(start), size, write, digester)

        async def write_joined(pipe: Pipe) -> None:
            await self._write_tail(state, pipe)
            await write(pipe)

        joined = state.without_tail().with_entry(start)
        return await self._log.append(joined, state.tail_size + size, write_joined, digester)

    async def _with_parts(self, state: State, part_size: int) -> State:
        """The state with a multipart upload that has room for one more part."""
        if len(state.etags) == MAX_PARTS:
            raise RegistryError(
                Problem.BLOB_TOO_LARGE,
                f"an upload has at most {MAX_PARTS} parts of {state.part_size} bytes; "
                f"send the first chunk with a Content-Length of at least {LARGE_PART} for larger parts",
            )
        if state.upload_id:
            return state
        data_id = blobs.new_id(self._platform)
        self._created = await self._storage.create_upload(keys.data(data_id))
        return replace(state, data_id=data_id, upload_id=self._created.upload_id, part_size=part_size)

    async def _stream_part(self, state: State, span: Span, digester: Digester | None) -> State:
        """Fill a part with the tail and the next bytes of a body, as they arrive."""

        async def write(pipe: Pipe) -> None:
            await self._write_tail(state, pipe)
            await copy(self._platform, span, pipe, digester)

        return await self._piped_part(state, write)

    async def _store_part(self, state: State, buffer: Buffer, count: int, digester: Digester | None) -> State:
        """Fill a part with the tail and a buffer."""
        content = buffer.slice(0, count)
        if not state.tail:
            storing = self._storage.upload_part(_multipart(state), len(state.etags) + 1, content)
            if digester is None:
                return state.with_part(await storing)
            etag, _ = await asyncio.gather(storing, digester.update(content))
            return state.with_part(etag)

        async def write(pipe: Pipe) -> None:
            await self._write_tail(state, pipe)
            await pipe.write(content)

        return await self._piped_part(state, write)

    async def _piped_part(self, state: State, write: Callable[[Pipe], Awaitable[None]]) -> State:
        async def store(content: Source) -> str:
            return await self._storage.upload_part(_multipart(state), len(state.etags) + 1, content)

        return state.with_part(await through_pipe(self._platform, state.part_size, write, store))

    async def _write_tail(self, state: State, pipe: Pipe) -> None:
        """Pass the pieces of the tail on, that of the open entry from where it is open."""
        for piece in state.tail:
            if self._open is not None and piece.entry == self._open.state.entry:
                await copy(self._platform, Span(self._open.body, piece.size), pipe)
            else:
                span = await self._log.piece(piece)
                try:
                    await copy(self._platform, span, pipe)
                finally:
                    await span.source.cancel()

    # ------------------------------------------------------------------ close
    async def close(self, digest: Digest) -> None:
        """Make what the session has, as it was resumed, the blob `digest`.

        Raises DIGEST_INVALID, after which nothing of the upload remains; OutOfDate when a newer entry follows; and
        BLOB_UPLOAD_UNKNOWN when the upload was cancelled or dropped meanwhile.
        """
        assert self._open is not None
        state = self._open.state
        if state.etags:
            await self._close_parts(self._open, digest)
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
            await self._write_tail(state, pipe)

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
        upload = _multipart(state)
        known: Digest | None = None
        completed = True
        try:
            last = await self._last_part(state)
            known = await entry.digest_behind_piece()
            if known != digest:
                # Before an upload is given up or joined: the client may have named an old location.
                await self._check_newest(state)
            if known is not None and known.algorithm == digest.algorithm and known != digest:
                await self._give_up(state)
                raise mismatch(digest)
            await self._complete(state, last)
        except UploadGone:
            # Asked again after a lost reply, or beside a twin: then the object is there. Else it was cancelled.
            stored = await self._storage.head(upload.key)
            if stored is None or stored.size != state.offset:
                raise gone() from None
            completed = False
        data = blobs.Data(state.data_id, state.offset)
        if known != digest and await self._digest_of(data, digest.algorithm) != digest:
            if completed:
                await blobs.drop_data(self._platform, data)
            await self._forget(state)
            raise mismatch(digest)
        standing = blobs.Standing.OURS if completed else blobs.Standing.TWIN
        await blobs.link(self._platform, self._name, digest, data, standing)

    async def _complete(self, state: State, last: list[str]) -> None:
        """Join the parts. Raises OutOfDate, and ends the session, when they are not what was acknowledged."""
        for attempt in range(_CLOSE_ATTEMPTS):
            try:
                await self._storage.complete_upload(_multipart(state), [*state.etags, *last])
            except PartChanged:
                # A twin that closes too replaced the last part: ours again. Without one, or again and again: a late
                # part of a chunk that lost replaced one of ours, and its bytes are not what was acknowledged.
                if not last or attempt == _CLOSE_ATTEMPTS - 1:
                    await self._give_up(state)
                    raise OutOfDate from None
                self._open = None  # it was read
                last = await self._last_part(state)
            else:
                return

    async def _give_up(self, state: State) -> None:
        """Drop the session and its parts."""
        with tidying("a multipart upload"):
            await self._storage.abort_upload(_multipart(state))
        await self._forget(state)

    async def _last_part(self, state: State) -> list[str]:
        """Store the tail as the last part; its etag, if there is a tail."""
        if not state.tail:
            return []

        async def write(pipe: Pipe) -> None:
            await self._write_tail(state, pipe)

        async def store(content: Source) -> str:
            return await self._storage.upload_part(_multipart(state), len(state.etags) + 1, content)

        return [await through_pipe(self._platform, state.tail_size, write, store)]

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
            await self._storage.abort_upload(_multipart(state))
        await self._log.forget(state)


def mismatch(digest: Digest) -> RegistryError:
    """DIGEST_INVALID for bytes that are not those of `digest`."""
    return RegistryError(Problem.DIGEST_INVALID, details=[{"digest": str(digest)}])


def _wrong_size() -> RegistryError:
    return RegistryError(Problem.SIZE_INVALID, "Content-Range names another size than the body has")


def _multipart(state: State) -> MultipartUpload:
    return MultipartUpload(keys.data(state.data_id), state.upload_id)
