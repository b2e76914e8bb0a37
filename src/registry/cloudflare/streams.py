"""Streams and buffers of the Workers runtime. Blob bytes stay in JavaScript; each await moves at least one buffer."""

import contextlib
from typing import Any

import js
from pyodide.ffi import JsException, jsnull, to_js

from registry.ports.storage import Buffer, ClientGone, PipeBroken
from registry.spec.names import Digest

# What DigestStream calls the algorithms of `registry.spec.names.ALGORITHMS`.
_WEB_CRYPTO_NAMES = {"sha256": "SHA-256", "sha512": "SHA-512"}


class JsBuffer:
    """An ArrayBuffer. A BYOB read detaches it, and returns the same memory in a new ArrayBuffer (`restore`)."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._array = js.Uint8Array.new(size)

    @property
    def is_whole(self) -> bool:
        return bool(self._array.byteLength == self.size)

    def copy(self, start: int, content: Any) -> None:
        self._array.set(content, start)

    def read(self, stop: int) -> bytes:
        data: bytes = self._array.subarray(0, stop).to_bytes()
        return data

    def slice(self, start: int, stop: int) -> Any:
        return self._array.subarray(start, stop)

    def restore(self, view: Any) -> None:
        """Take the memory back after a read. `view` is the part that the read filled."""
        self._array = js.Uint8Array.new(view.buffer)


class JsSource:
    """A ReadableStream of bytes.

    A BYOB reader fills whole buffers; a default reader would return chunks of 4,096 bytes.
    """

    def __init__(self, stream: Any, size: int | None, broken: type[Exception] = ClientGone) -> None:
        self.size = size
        self.taken = 0
        self._stream = stream
        self._broken = broken  # the exception to raise when the stream breaks
        self._reader: Any = None
        self._ended = present(stream) is None  # a request without a body has null as its stream

    def hand_over(self) -> Any:
        """Return the stream itself, unread, for R2 or for a Response."""
        self._ended = True
        self.taken = self.size or 0
        return self._stream

    async def fill(self, buffer: Buffer, start: int, stop: int) -> int:
        assert isinstance(buffer, JsBuffer)
        if self._ended or start == stop:
            return 0
        if self._reader is None:
            self._reader = self._stream.getReader(mode="byob")
        try:
            result = await self._reader.readAtLeast(stop - start, buffer.slice(start, stop))
        except JsException as error:
            self._ended = True
            raise self._broken(str(error)) from None
        buffer.restore(result.value)
        count: int = result.value.byteLength
        self.taken += count
        self._ended = bool(result.done)
        return count

    async def read(self, limit: int) -> bytes:
        buffer = JsBuffer(limit)
        count = await self.fill(buffer, 0, limit)
        data: bytes = buffer.slice(0, count).to_bytes()
        return data

    async def discard(self) -> None:
        if self._ended:
            return
        self._ended = True
        with contextlib.suppress(JsException):  # the stream broke, or an abandoned read is still pending
            if self._reader is not None:
                self._reader.releaseLock()
            # The runtime's only sink that discards bytes without running the event loop. Nothing uses the digest.
            sink = js.crypto.DigestStream.new("SHA-1")
            js.Promise.allSettled(to_js([sink.digest]))
            await self._stream.pipeTo(sink)
            self.taken = self.size or self.taken

    async def cancel(self) -> None:
        if self._ended:
            return
        self._ended = True
        with contextlib.suppress(JsException):  # the stream is broken already: nothing is left to cancel
            await (self._stream if self._reader is None else self._reader).cancel()


class JsPipe:
    """A FixedLengthStream, because R2 accepts a stream only if its length is known."""

    def __init__(self, size: int) -> None:
        stream = js.FixedLengthStream.new(size)
        self.content = JsSource(stream.readable, size)
        self._writer = stream.writable.getWriter()

    async def write(self, content: Any) -> None:
        try:
            await self._writer.write(content)
        except JsException as error:
            raise PipeBroken(str(error)) from None

    async def close(self) -> None:
        try:
            await self._writer.close()
        except JsException as error:
            raise PipeBroken(str(error)) from None

    async def abort(self) -> None:
        await self._writer.abort(js.Error.new("given up"))


class JsDigester:
    """Computes a digest with crypto.DigestStream."""

    def __init__(self, algorithm: str) -> None:
        self._algorithm = algorithm
        self._stream = js.crypto.DigestStream.new(_WEB_CRYPTO_NAMES[algorithm])
        self._writer = self._stream.getWriter()

    async def update(self, content: Any) -> None:
        await self._writer.write(content)

    async def digest(self) -> Digest:
        await self._writer.close()
        return Digest(self._algorithm, (await self._stream.digest).to_bytes().hex())

    async def abort(self) -> None:
        # The Error is required: without one, the promise of the digest never settles and the request hangs.
        await self._writer.abort(js.Error.new("given up"))
        with contextlib.suppress(JsException):
            await self._stream.digest


class JsStreams:
    """Creates the buffers, pipes and digesters of this module."""

    def buffer(self, size: int) -> JsBuffer:
        return JsBuffer(size)

    def content(self, data: bytes) -> Any:
        return to_js(data)

    def pipe(self, size: int) -> JsPipe:
        return JsPipe(size)

    def digester(self, algorithm: str) -> JsDigester:
        return JsDigester(algorithm)


def present(value: Any) -> Any:
    """Convert JavaScript's null to None; undefined is None already."""
    return None if value is jsnull else value
