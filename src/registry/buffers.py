"""The memory of all requests of an isolate together: a Worker has 128 MB, the interpreter included.

A request must not wait for another one's promise, so who finds no room polls; and a request that is dropped may never
give its buffers back, so a lease ends by itself.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from registry.errors import Problem, RegistryError
from registry.storage import Buffer, Source, Streams
from registry.tasks import settled

POLL_SECONDS = 0.05  # between two looks for room
WAIT_SECONDS = 30.0  # for room; then 503, and the client tries again
LEASE_SECONDS = 120.0  # after which a buffer nobody touched counts as given back
PATIENCE_SECONDS = 20.0  # a client may take to fill a buffer while others wait for one
_RETRY_AFTER = {"Retry-After": "5"}  # seconds


class BufferPool:
    """Hands out `count` buffers of `size` bytes. `held` and `peak` are bytes that are, or were, in use at once."""

    def __init__(
        self,
        streams: Streams,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        size: int,
        count: int,
    ) -> None:
        self.size = size
        self.limit = size * count
        self._streams = streams
        self._now = now
        self._sleep = sleep
        self._leases: set[Lease] = set()
        # Given back: a new one would wait beside them for the garbage collector.
        self._free: list[Buffer] = []
        self._last_refusal = 0.0  # when somebody last found no room
        self.peak = 0

    @property
    def held(self) -> int:
        """Bytes in buffers that are in use; leases that ended are forgotten."""
        oldest = self._now() - LEASE_SECONDS
        self._leases = {lease for lease in self._leases if lease.touched > oldest}
        return self.size * len(self._leases)

    def take_now(self) -> "Lease | None":
        """A buffer, or None when there is none left."""
        held = self.held
        if held == self.limit:
            return None
        buffer = self._free.pop() if self._free else self._streams.buffer(self.size)
        lease = Lease(self, buffer, self._now())
        self._leases.add(lease)
        self.peak = max(self.peak, held + self.size)
        return lease

    async def take(self) -> "Lease":
        """A buffer, as soon as there is one; 503 when there is none for WAIT_SECONDS."""
        began = self._now()
        while (lease := self.take_now()) is None:
            self._last_refusal = self._now()
            if self._last_refusal - began > WAIT_SECONDS:
                raise RegistryError(Problem.UNAVAILABLE, "too many uploads at once; try again", headers=_RETRY_AFTER)
            await self._sleep(POLL_SECONDS)
        return lease

    async def fill(self, source: Source, lease: "Lease", stop: int, *, start: int = 0) -> int:
        """Fill a buffer from `start` to `stop`; 503 for a client so slow that others wait for its buffer.

        Who is cancelled here leaves the buffer to the source, which may go on filling it: nobody gets it again.
        """
        filling = asyncio.ensure_future(source.fill(lease.buffer, start, stop))
        began = self._now()
        while True:
            if lease.timer is None or lease.timer.done():
                lease.timer = asyncio.ensure_future(self._sleep(PATIENCE_SECONDS / 4))
            try:
                await asyncio.wait((filling, lease.timer), return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                self._leases.discard(lease)
                raise
            lease.touched = self._now()
            if filling.done():
                return filling.result()
            others_wait = lease.touched - self._last_refusal < PATIENCE_SECONDS
            if others_wait and lease.touched - began > PATIENCE_SECONDS:
                await source.cancel()
                await settled(filling)
                raise RegistryError(
                    Problem.UNAVAILABLE,
                    "the body arrives too slowly while others wait; try again",
                    headers=_RETRY_AFTER,
                )

    def give_back(self, lease: "Lease") -> None:
        """The buffer is free, unless the lease ended before: then it may still be in use, and nobody gets it again."""
        if lease in self._leases:
            self._leases.discard(lease)
            if lease.buffer.is_whole:
                self._free.append(lease.buffer)


class Lease:
    """A buffer for as long as a `with` lasts."""

    def __init__(self, pool: BufferPool, buffer: Buffer, touched: float) -> None:
        self._pool = pool
        self.buffer = buffer
        self.touched = touched  # seconds since the epoch
        self.timer: asyncio.Future[None] | None = None  # one for all fills: timers cost

    def __enter__(self) -> Self:
        """Use it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        if self.timer is not None:
            self.timer.cancel()
        self._pool.give_back(self)
