"""Reading a chunk whose length nobody says (docker's): R2 takes no part of unknown length, so a part waits in a buffer.

There are few buffers of a part. Who finds none for BUFFER_WAIT goes on with a small one, whose bytes are kept as pieces
of the session's log until they fill a part: slower, and never refused. Who has one gives it to those who wait when its
part is stored.
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

FILL_STEP = 512 * 1024  # bytes that a client must send within PATIENCE_SECONDS while others wait
BUFFER_WAIT = 5.0  # seconds that a chunk waits for the buffer of a part before it goes on with a small one

# Writes the next entry of the log: the state before it, the offset at which it starts, a buffer, how many bytes of
# that, and the digester for the entry that starts at 0.
AppendBuffer = Callable[[State, int, Buffer | None, int, Digester | None], Awaitable[State]]


class UnsizedChunk:
    """A chunk while it is read. `state` has what is stored of it."""

    def __init__(
        self, platform: Platform, parts: Parts, append_buffer: AppendBuffer, state: State, body: Source
    ) -> None:
        self._platform = platform
        self._parts = parts
        self._append_buffer = append_buffer
        self._body = body
        self._state = state
        self._start = state.offset  # where the next entry of the log starts
        self._part_size = state.part_size or part_size_for(None)
        self._digester: Digester | None = None  # until an entry has its digest
        self._end: int | None = None  # where the chunk ends, if the client said so

    async def run(self, expected: int | None, digester: Digester | None) -> State:
        """Store it; the state after it. `expected` and errors as in `Upload.append`."""
        self._digester = digester
        self._end = None if expected is None else self._state.offset + expected
        try:
            while not await self._read_some():
                pass
        except RegistryError as error:
            if error.problem is Problem.UNAVAILABLE and self._state.offset > self._start:
                await self._append(None, 0)  # there was no room for more: who asks goes on behind what is stored
            raise
        return self._state

    async def _read_some(self) -> bool:
        """Read up to where another request may have the buffer; whether the chunk has ended."""
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
        """Bytes that a buffer may take: no more than the part has room for."""
        return min(parts.SMALL_PART, self._part_size - self._state.tail_size)

    async def _fill_parts(self, leases: contextlib.ExitStack, large: BufferLease, count: int) -> bool:
        """Fill buffers of parts, the first of which has `count` bytes; whether the chunk has ended.

        One buffer fills while the part in another is stored, if there is room for two.
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
                # Only now: a client too slow to fill one shall not hold two.
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
        """Bytes from `start` on; 503 for a client that takes too long for one step while others wait."""
        count = start
        while count < stop:
            step = min(stop, count + FILL_STEP)
            count += await self._platform.buffers.fill(self._body, lease, step, start=count)
            if count < step:
                break
        return count - start

    async def _store(self, buffer: Buffer, count: int) -> None:
        """Store the bytes in a buffer: as a part where they fill one, else as a piece."""
        state = self._state
        if state.tail_size + count == self._part_size:
            state = await self._parts.begin(state, self._part_size)
            self._state = await self._parts.store(state, buffer, count, self._digester)
        else:
            await self._append(buffer, count)

    async def _append(self, buffer: Buffer | None, count: int) -> None:
        self._state = await self._append_buffer(self._state, self._start, buffer, count, self._digester)
        if self._start == 0:
            self._digester = None  # the entry has it
        self._start = self._state.offset

    async def _finish(self, buffer: Buffer, count: int) -> None:
        """Store the last bytes. Raises SIZE_INVALID when the chunk is longer or shorter than the client said."""
        if self._end is not None and self._state.offset + count != self._end:
            raise wrong_size()
        if self._state.offset + count > self._start:  # else the last entry has the state already
            await self._append(buffer, count)


def wrong_size() -> RegistryError:
    """SIZE_INVALID for a body that is not what its Content-Range says."""
    return RegistryError(Problem.SIZE_INVALID, "Content-Range names another size than the body has")
