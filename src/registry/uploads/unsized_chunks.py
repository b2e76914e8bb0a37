"""Stores a chunk of unknown length, as Docker sends it. R2 takes no part of unknown length, so a buffer collects it.

Memory allows few buffers of a part's size. A chunk that gets none within BUFFER_WAIT continues with a small buffer,
whose bytes become pieces in the session's log until they fill a part. That is slower, but the chunk is not refused. A
chunk that has a large buffer gives it to a waiting chunk when its part is stored.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from registry.ports.memory import BufferLease
from registry.ports.platform import FIRST_BUFFER, Platform
from registry.ports.storage import Buffer, Digester, Source
from registry.ports.tasks import settled
from registry.spec.errors import Problem, RegistryError
from registry.uploads import parts
from registry.uploads.log import State
from registry.uploads.parts import Parts, part_size_for

FILL_STEP = 512 * 1024  # bytes that a client must send within PATIENCE_SECONDS while other chunks wait
BUFFER_WAIT = 5.0  # seconds that a chunk waits for a large buffer before it continues with a small one

# Writes the next log entry. Its arguments: the state before the entry, the entry's start offset, a buffer, the number
# of bytes in the buffer, and the digester if the entry starts at offset 0.
AppendBuffer = Callable[[State, int, Buffer | None, int, Digester | None], Awaitable[State]]


class UnsizedChunk:
    """Reads and stores one chunk of unknown length."""

    def __init__(
        self, platform: Platform, parts: Parts, append_buffer: AppendBuffer, state: State, body: Source
    ) -> None:
        self._platform = platform
        self._parts = parts
        self._append_buffer = append_buffer
        self._body = body
        self._state = state
        self._start = state.offset  # where the next log entry starts
        self._part_size = state.part_size or part_size_for(None)
        self._digester: Digester | None = None  # until a log entry has the digest
        self._end: int | None = None  # the offset at which the chunk ends, if Content-Range tells it

    async def run(self, expected: int | None, digester: Digester | None) -> State:
        """Store the chunk; return the state after it. `expected` and errors are as in `Upload.append`."""
        self._digester = digester
        self._end = None if expected is None else self._state.offset + expected
        try:
            while not await self._read_some():
                pass
        except RegistryError as error:
            if error.problem is Problem.UNAVAILABLE and self._state.offset > self._start:
                await self._append(None, 0)  # no buffer was free: the client can continue after the stored bytes
            raise
        return self._state

    async def _read_some(self) -> bool:
        """Read until the buffer can go to another request; return whether the chunk has ended."""
        platform = self._platform
        with contextlib.ExitStack() as leases:
            with await platform.firsts.take() as first:
                wanted = min(FIRST_BUFFER, self._room())
                count = await platform.firsts.fill(self._body, first, wanted)
                if count < wanted:
                    await self._finish(first.buffer, count)
                    return True
                large = await platform.buffers.take_within(BUFFER_WAIT)
                if large is None:
                    await self._store(first.buffer, count)
                    return False
                leases.enter_context(large)
                large.buffer.copy(0, first.buffer.slice(0, count))
            return await self._fill_parts(leases, large, count)

    def _room(self) -> int:
        """Return how many bytes the current part has room for, at most SMALL_PART."""
        return min(parts.SMALL_PART, self._part_size - self._state.tail_size)

    async def _fill_parts(self, leases: contextlib.ExitStack, large: BufferLease, count: int) -> bool:
        """Fill large buffers, the first of which has `count` bytes; return whether the chunk has ended.

        When a second buffer is free, it fills while the part in the first is stored.
        """
        pool = self._platform.buffers
        buffers = [large]
        tail = self._state.tail_size
        storing: asyncio.Future[State] | None = None
        try:
            while True:
                wanted = min(parts.SMALL_PART, self._part_size - tail)
                count += await self._fill(buffers[0], wanted, count)
                if storing is not None:
                    self._state, storing = await storing, None
                if count < wanted:
                    await self._finish(buffers[0].buffer, count)
                    return True
                if tail + count < self._part_size or pool.is_wanted:
                    await self._store(buffers[0].buffer, count)
                    return False
                self._state = await self._parts.begin(self._state, self._part_size)
                storing = asyncio.ensure_future(
                    self._parts.store(self._state, buffers[0].buffer, count, self._digester)
                )
                # Not earlier: a client too slow to fill one buffer must not hold two.
                second = pool.take_now() if len(buffers) == 1 else None
                if second is not None:
                    buffers.append(leases.enter_context(second))
                elif len(buffers) == 1:
                    self._state, storing = await storing, None
                buffers.reverse()
                count = tail = 0
        finally:
            if storing is not None:
                await settled(storing)
                if not storing.cancelled() and storing.exception() is None:
                    self._state = storing.result()

    async def _fill(self, lease: BufferLease, stop: int, start: int) -> int:
        """Read bytes to the buffer from `start` on; return their number.

        Raises UNAVAILABLE when the client takes too long for one step while other requests wait for a buffer.
        """
        count = start
        while count < stop:
            step = min(stop, count + FILL_STEP)
            count += await self._platform.buffers.fill(self._body, lease, step, start=count)
            if count < step:
                break
        return count - start

    async def _store(self, buffer: Buffer, count: int) -> None:
        """Store the bytes in a buffer: as a part if they fill one, else as a piece."""
        state = self._state
        if state.tail_size + count == self._part_size:
            state = await self._parts.begin(state, self._part_size)
            self._state = await self._parts.store(state, buffer, count, self._digester)
        else:
            await self._append(buffer, count)

    async def _append(self, buffer: Buffer | None, count: int) -> None:
        self._state = await self._append_buffer(self._state, self._start, buffer, count, self._digester)
        if self._start == 0:
            self._digester = None  # the log entry has the digest
        self._start = self._state.offset

    async def _finish(self, buffer: Buffer, count: int) -> None:
        """Store the last bytes. Raises SIZE_INVALID when the chunk's size differs from Content-Range."""
        if self._end is not None and self._state.offset + count != self._end:
            raise wrong_size()
        if self._state.offset + count > self._start:  # else the last log entry has the state already
            await self._append(buffer, count)


def wrong_size() -> RegistryError:
    """Return SIZE_INVALID for a body whose size differs from its Content-Range."""
    return RegistryError(Problem.SIZE_INVALID, "the body's size differs from its Content-Range")
