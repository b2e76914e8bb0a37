"""The parts of an upload: filled with the bytes that wait in the log, then with those that arrive."""

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

SMALL_PART = PART_BUFFER  # bytes: a chunk of unknown length is read into one buffer a part
LARGE_PART = 32 * 1024 * 1024  # bytes; when the chunk that fills the first part says that it is at least this long
_CLOSE_ATTEMPTS = 4  # of twins that close the same session at once


def part_size_for(size: int | None) -> int:
    """The size of all parts, decided when `size` bytes, or nobody knows how many, are about to fill the first one."""
    return LARGE_PART if size is not None and size >= LARGE_PART else SMALL_PART


def multipart(state: State) -> MultipartUpload:
    """The multipart upload that a state names."""
    return MultipartUpload(keys.data(state.data_id), state.upload_id)


class Parts:
    """The parts of one upload session, for one request."""

    def __init__(self, platform: Platform, log: UploadLog) -> None:
        self._platform = platform
        self._storage = platform.storage
        self._log = log
        # The entry that was resumed from: its piece needs no second read.
        self.open: Entry | None = None
        # By this request, and in no entry of the log yet.
        self._created: MultipartUpload | None = None

    async def begin(self, state: State, part_size: int) -> State:
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

    async def stream(self, state: State, span: Span, digester: Digester | None) -> State:
        """Fill a part with the tail and the next bytes of a body, as they arrive."""

        async def write(pipe: Pipe) -> None:
            await self.write_tail(state, pipe)
            await copy(self._platform, span, pipe, digester)

        return await self._pipe(state, write)

    async def store(self, state: State, buffer: Buffer, count: int, digester: Digester | None) -> State:
        """Fill a part with the tail and a buffer."""
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
        """Store the next part; its etag."""

        async def store(content: Source) -> str:
            return await self._storage.upload_part(multipart(state), len(state.etags) + 1, content)

        return await through_pipe(self._platform, size, write, store)

    async def write_tail(self, state: State, pipe: Pipe) -> None:
        """Pass the pieces of the tail on, that of the open entry from where it is open."""
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
        """Store the tail as the last part; its etag, if there is a tail."""
        if not state.tail:
            return []
        return [await self._upload(state, state.tail_size, lambda pipe: self.write_tail(state, pipe))]

    async def complete(self, state: State, last: list[str]) -> None:
        """Join the parts; raises PartChanged when they are not what was acknowledged, UploadGone when it is over."""
        for attempt in range(_CLOSE_ATTEMPTS):
            try:
                await self._storage.complete_upload(multipart(state), [*state.etags, *last])
            except PartChanged:
                # A twin that closes too replaced the last part: ours again. Without one, or again and again: a late
                # part of a chunk that lost replaced one of ours, and its bytes are not what was acknowledged.
                if not last or attempt == _CLOSE_ATTEMPTS - 1:
                    raise
                self.open = None  # it was read
                last = await self.store_last(state)
            else:
                return

    def keep_created(self) -> None:
        """An entry names the multipart upload that this request created."""
        self._created = None

    async def drop_created(self) -> None:
        """Abort the multipart upload that no entry names."""
        if self._created is not None:
            with tidying("a multipart upload"):
                await self._storage.abort_upload(self._created)
