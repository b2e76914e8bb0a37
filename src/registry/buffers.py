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
    """Hands out buffers of at most `limit` bytes together. `held` and `peak` are bytes."""

    def __init__(
        self,
        streams: Streams,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        limit: int,
    ) -> None:
        self._streams = streams
        self._now = now
        self._sleep = sleep
        self._limit = limit
        self._leases: set[Lease] = set()
        self._last_refusal = 0.0  # when somebody last found no room
        self.peak = 0

    @property
    def held(self) -> int:
        """Bytes in buffers that are in use; leases that ended are forgotten."""
        oldest = self._now() - LEASE_SECONDS
        self._leases = {lease for lease in self._leases if lease.touched > oldest}
        return sum(lease.size for lease in self._leases)

    def take_now(self, size: int) -> "Lease | None":
        """A buffer, or None when there is no room."""
        held = self.held
        if held + size > self._limit:
            return None
        lease = Lease(self, self._streams.buffer(size), size, self._now())
        self._leases.add(lease)
        self.peak = max(self.peak, held + size)
        return lease

    async def take(self, size: int) -> "Lease":
        """A buffer, as soon as there is room; 503 when there is none for WAIT_SECONDS."""
        began = self._now()
        while (lease := self.take_now(size)) is None:
            self._last_refusal = self._now()
            if self._last_refusal - began > WAIT_SECONDS:
                raise RegistryError(Problem.UNAVAILABLE, "too many uploads at once; try again", headers=_RETRY_AFTER)
            await self._sleep(POLL_SECONDS)
        return lease

    async def fill(self, source: Source, lease: "Lease", stop: int) -> int:
        """Fill a buffer up to `stop`; 503 for a client so slow that others wait for its buffer."""
        filling = asyncio.ensure_future(source.fill(lease.buffer, 0, stop))
        began = self._now()
        while True:
            if lease.timer is None or lease.timer.done():
                lease.timer = asyncio.ensure_future(self._sleep(PATIENCE_SECONDS / 4))
            await asyncio.wait((filling, lease.timer), return_when=asyncio.FIRST_COMPLETED)
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
        """The buffer is free."""
        self._leases.discard(lease)


class Lease:
    """A buffer for as long as a `with` lasts."""

    def __init__(self, pool: BufferPool, buffer: Buffer, size: int, touched: float) -> None:
        self._pool = pool
        self.buffer = buffer
        self.size = size
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
