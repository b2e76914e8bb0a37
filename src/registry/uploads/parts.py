"""The parts of an R2 multipart upload, filled with the bytes kept in the log and those that arrive."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from registry.content import blobs
from registry.ports.platform import PART_BUFFER, Platform
from registry.ports.retries import tidying
from registry.ports.storage import MAX_PARTS, Buffer, Digester, MultipartUpload, PartChanged, Pipe, Source
from registry.ports.tasks import beside
from registry.spec.errors import Problem, RegistryError
from registry.storage import keys
from registry.storage.transfer import Span, copy, through_pipe
from registry.uploads.log import Entry, State, UploadLog

SMALL_PART = PART_BUFFER  # bytes: a chunk of unknown length is read into one buffer for each part
LARGE_PART = 32 * 1024 * 1024  # bytes: for an upload of which at least this much is known when the first part begins
_CLOSE_ATTEMPTS = 4  # while concurrent requests close the same session


def part_size_for(size: int | None) -> int:
    """Return the size of all parts of an upload, given the bytes at hand for the first part; None: unknown."""
    return LARGE_PART if size is not None and size >= LARGE_PART else SMALL_PART


def multipart(state: State) -> MultipartUpload:
    """Return the multipart upload that a state names."""
    return MultipartUpload(keys.data(state.data_id), state.upload_id)


class Parts:
    """Stores parts of one upload session, during one request."""

    def __init__(self, platform: Platform, log: UploadLog) -> None:
        self._platform = platform
        self._storage = platform.storage
        self._log = log
        # The entry from which the session was resumed: its body is open at its piece, which saves a read.
        self.open: Entry | None = None
        # Created by this request, while no log entry names it yet.
        self._created: MultipartUpload | None = None

    async def begin(self, state: State, part_size: int) -> State:
        """Return the state with a multipart upload that has room for another part. Raises BLOB_TOO_LARGE."""
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

    async def stream(self, state: State, span: Span, digester: Digester | None) -> State:
        """Store a part from the tail and the next bytes of a body, which stream through as they arrive."""

        async def write(pipe: Pipe) -> None:
            await self.write_tail(state, pipe)
            await copy(self._platform, span, pipe, digester)

        return await self._pipe(state, write)

    async def store(self, state: State, buffer: Buffer, count: int, digester: Digester | None) -> State:
        """Store a part from the tail and a buffer."""
        content = buffer.slice(0, count)
        if not state.tail:
            storing = self._storage.upload_part(multipart(state), len(state.etags) + 1, content)
            if digester is None:
                return state.with_part(await storing)
            return state.with_part(await beside(storing, digester.update(content)))

        async def write(pipe: Pipe) -> None:
            await self.write_tail(state, pipe)
            await pipe.write(content)

        return await self._pipe(state, write)

    async def _pipe(self, state: State, write: Callable[[Pipe], Awaitable[None]]) -> State:
        return state.with_part(await self._upload(state, state.part_size, write))

    async def _upload(self, state: State, size: int, write: Callable[[Pipe], Awaitable[None]]) -> str:
        """Store the next part and return its etag."""

        async def store(content: Source) -> str:
            return await self._storage.upload_part(multipart(state), len(state.etags) + 1, content)

        return await through_pipe(self._platform, size, write, store)

    async def write_tail(self, state: State, pipe: Pipe) -> None:
        """Write the pieces of the tail to a pipe; the piece of the open entry comes from its open body."""
        for piece in state.tail:
            if self.open is not None and piece.entry == self.open.state.entry:
                await copy(self._platform, Span(self.open.body, piece.size), pipe)
            else:
                span = await self._log.piece(piece)
                try:
                    await copy(self._platform, span, pipe)
                finally:
                    await span.source.cancel()

    async def store_last(self, state: State) -> list[str]:
        """Store the tail, if any, as the last part; return its etag, if any."""
        if not state.tail:
            return []
        return [await self._upload(state, state.tail_size, lambda pipe: self.write_tail(state, pipe))]

    async def complete(self, state: State, last: list[str]) -> None:
        """Complete the multipart upload.

        Raises PartChanged when a part is not the acknowledged one, UploadGone when the upload is completed or aborted.
        """
        for attempt in range(_CLOSE_ATTEMPTS):
            try:
                await self._storage.complete_upload(multipart(state), [*state.etags, *last])
            except PartChanged:
                # A concurrent close replaced the last part: store ours again. Without a last part, or when this goes
                # on, a refused chunk's late part has replaced one of ours, and its bytes were not acknowledged.
                if not last or attempt == _CLOSE_ATTEMPTS - 1:
                    raise
                self.open = None  # its body was read
                last = await self.store_last(state)
            else:
                return

    def keep_created(self) -> None:
        """Keep the multipart upload that this request created: a log entry names it now."""
        self._created = None

    async def drop_created(self) -> None:
        """Abort the multipart upload that this request created, if no log entry names it."""
        if self._created is not None:
            with tidying("a multipart upload"):
                await self._storage.abort_upload(self._created)
