"""In-memory streams, as strict as workerd's."""

import asyncio
import contextlib
import hashlib
import mmap
from collections.abc import Awaitable, Callable, Iterable, Iterator

from registry.ports.storage import Buffer, ClientGone, Content, PipeBroken
from registry.spec.names import Digest

# An event of a stream: bytes, the end of the connection, or a pause.
Chunk = bytes | Exception | Callable[[], Awaitable[None]]


class FakeContent(Content):
    """Bytes to be written."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self.data = data


class FakeBuffer:
    """A buffer of a fixed size."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._bytes = mmap.mmap(-1, size)  # takes no memory until it is written

    @property
    def is_whole(self) -> bool:
        return True

    def copy(self, start: int, content: Content) -> None:
        assert isinstance(content, FakeContent)
        self.write_at(start, bytes(content.data))

    def read(self, stop: int) -> bytes:
        return self._bytes[:stop]

    def slice(self, start: int, stop: int) -> FakeContent:
        assert 0 <= start <= stop <= self.size
        return FakeContent(memoryview(self._bytes)[start:stop])

    def write_at(self, start: int, data: bytes) -> None:
        self._bytes[start : start + len(data)] = data


class FakeSource:
    """A stream that can be read once. `chunks` are the events, in the sender's pieces."""

    def __init__(
        self,
        chunks: Iterable[Chunk],
        size: int | None = None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._chunks: Iterator[Chunk] = iter(chunks)
        self._rest = b""
        self._size = size
        self._on_close = on_close
        self._closed = False
        self._cancelled = asyncio.Event()
        self.taken = 0
        self.started = False

    @property
    def size(self) -> int | None:
        return self._size

    async def _next(self, limit: int) -> bytes:
        self.started = True
        while not self._rest and not self._closed:
            await asyncio.sleep(0)
            chunk = next(self._chunks, None)
            if isinstance(chunk, Exception):
                self._close()
                raise chunk
            if chunk is None:
                self._close()
            elif isinstance(chunk, bytes):
                self._rest = chunk
            else:
                waits = asyncio.ensure_future(chunk()), asyncio.ensure_future(self._cancelled.wait())
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()
        taken, self._rest = self._rest[:limit], self._rest[limit:]
        self.taken += len(taken)
        if self.taken == self._size:
            self._close()
        return taken

    async def fill(self, buffer: Buffer, start: int, stop: int) -> int:
        assert isinstance(buffer, FakeBuffer)
        assert 0 <= start <= stop <= buffer.size
        position = start
        while position < stop:
            taken = await self._next(stop - position)
            if not taken:
                break
            buffer.write_at(position, taken)
            position += len(taken)
        return position - start

    async def read(self, limit: int) -> bytes:
        data = bytearray()
        while len(data) < limit and (taken := await self._next(limit - len(data))):
            data += taken
        return bytes(data)

    async def discard(self) -> None:
        with contextlib.suppress(ClientGone):
            while await self._next(65_536):
                pass

    async def cancel(self) -> None:
        self._rest = b""
        self._cancelled.set()
        self._close()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._on_close()


class PipeContent(FakeSource):
    """The readable side of a pipe, for one reader."""

    def __init__(self, size: int) -> None:
        super().__init__([], size)
        self.queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(1)
        self._received = 0

    async def _next(self, limit: int) -> bytes:
        self.started = True
        while not self._rest and not self._closed:
            item = await self.queue.get()
            self.queue.task_done()
            if isinstance(item, bytes):
                self._rest = item
                self._received += len(item)
                continue
            self._close()
            if item is not None:
                raise item
            if self.size != self._received:
                raise TypeError(f"FixedLengthStream got {self._received} bytes, expected {self.size}")
        taken, self._rest = self._rest[:limit], self._rest[limit:]
        return taken

    async def collect(self) -> bytes:
        """Read all bytes; raises when there are too few or too many, or when the writer aborts."""
        assert self.size is not None
        return await self.read(self.size + 1)

    async def cancel(self) -> None:
        await super().cancel()
        while not self.queue.empty():
            self.queue.get_nowait()
            self.queue.task_done()

    @property
    def is_gone(self) -> bool:
        """Whether the reader has cancelled."""
        return self._cancelled.is_set()


class FakePipe:
    """A fake FixedLengthStream: exactly `size` bytes must pass."""

    def __init__(self, size: int) -> None:
        self._content = PipeContent(size)
        self._aborted = False

    @property
    def content(self) -> PipeContent:
        return self._content

    async def write(self, content: Content) -> None:
        assert isinstance(content, FakeContent)
        await self._put(bytes(content.data))

    async def close(self) -> None:
        await self._put(None)

    async def abort(self) -> None:
        self._aborted = True
        queue = self._content.queue
        while not queue.empty():
            queue.get_nowait()
            queue.task_done()
        queue.put_nowait(ClientGone("the writer aborted"))

    async def _put(self, item: bytes | None) -> None:
        if not self._content.is_gone:
            await self._content.queue.put(item)
            await self._content.queue.join()
        if self._content.is_gone or (item is not None and self._aborted):
            raise PipeBroken("the reader cancelled, or the writer aborted")


class FakeDigester:
    """A fake DigestStream."""

    def __init__(self, algorithm: str) -> None:
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm)

    async def update(self, content: Content) -> None:
        assert isinstance(content, FakeContent)
        await asyncio.sleep(0)
        self._hash.update(content.data)

    async def digest(self) -> Digest:
        return Digest(self._algorithm, self._hash.hexdigest())

    async def abort(self) -> None:
        pass


class FakeStreams:
    """Makes the fakes of this module."""

    def buffer(self, size: int) -> FakeBuffer:
        return FakeBuffer(size)

    def content(self, data: bytes) -> FakeContent:
        return FakeContent(data)

    def pipe(self, size: int) -> FakePipe:
        return FakePipe(size)

    def digester(self, algorithm: str) -> FakeDigester:
        return FakeDigester(algorithm)
