"""Bounds on the memory of an isolate's requests: a Worker has 128 MB, the interpreter included.

A `Ledger` counts the bytes used for one purpose; a `BufferPool` also hands out the buffers. A request must not wait for
another request's promise, so a request without room polls. Requests get room in the order of their arrival. The runtime
may drop a request, which then never gives its memory back: so every lease expires.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from registry.ports.storage import Buffer, Content, Source, Streams
from registry.ports.tasks import settled
from registry.spec.errors import Problem, RegistryError

POLL_SECONDS = 0.05  # between the first two polls; each pause is twice the one before, up to _MAX_POLL_SECONDS
_MAX_POLL_SECONDS = 0.4
WAIT_SECONDS = 30.0  # for room; then the answer is 503, and the client tries again
LEASE_SECONDS = 120.0  # without use, after which a lease expires
PATIENCE_SECONDS = 20.0  # that a client may take to fill a buffer while other requests wait for one
_GONE_SECONDS = 2.0  # without a poll, after which a waiting request counts as dropped
_RETRY_AFTER = {"Retry-After": "5"}  # seconds


class Lease:
    """A number of bytes, reserved in a ledger until the `with` block ends."""

    def __init__(self, ledger: "Ledger", size: int, touched: float) -> None:
        self._ledger = ledger
        self.size = size  # bytes
        self.touched = touched  # last use, in seconds since the epoch

    def __enter__(self) -> Self:
        """Return the lease."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the bytes."""
        self._ledger.give_back(self)


class Ledger:
    """Lets requests use at most `limit` bytes at once. `peak` is the largest number of bytes that were in use."""

    def __init__(self, now: Callable[[], float], sleep: Callable[[float], Awaitable[None]], limit: int) -> None:
        self.limit = limit
        self.peak = 0
        self._now = now
        self._sleep = sleep
        self._leases: set[Lease] = set()
        # Ticket of each waiting request, in order of arrival -> time of its last poll.
        self._waiting: dict[object, float] = {}

    @property
    def held(self) -> int:
        """Bytes in use, without expired leases."""
        oldest = self._now() - LEASE_SECONDS
        self._leases = {lease for lease in self._leases if lease.touched > oldest}
        return sum(lease.size for lease in self._leases)

    @property
    def is_wanted(self) -> bool:
        """Whether a request waits for room."""
        return self._first() is not None

    def _first(self) -> object:
        """The ticket of the request that has waited longest; dropped requests are removed."""
        oldest = self._now() - _GONE_SECONDS
        while self._waiting:
            first = next(iter(self._waiting))
            if self._waiting[first] > oldest:
                return first
            del self._waiting[first]
        return None

    def _take(self, size: int, ticket: object = None) -> Lease | None:
        """Return a lease; None if there is no room, or if other requests wait before the one with this ticket."""
        first = self._first()
        held = self.held
        if (first is not None and first is not ticket) or held + size > self.limit:
            return None
        lease = self._lease(size)
        self._leases.add(lease)
        self.peak = max(self.peak, held + size)
        return lease

    def _lease(self, size: int) -> Lease:
        return Lease(self, size, self._now())

    async def _wait(self, size: int, seconds: float) -> Lease | None:
        """Return a lease as soon as there is room; None if there is none for `seconds`."""
        if (lease := self._take(size)) is not None:
            return lease
        ticket, began, pause = object(), self._now(), POLL_SECONDS
        try:
            while self._now() - began <= seconds:
                self._waiting[ticket] = self._now()
                await self._sleep(pause)
                pause = min(2 * pause, _MAX_POLL_SECONDS)
                if (lease := self._take(size, ticket)) is not None:
                    return lease
        finally:
            self._waiting.pop(ticket, None)
        return None

    async def reserve(self, size: int) -> Lease:
        """Reserve `size` bytes, or the limit if that is less. Raises 503 if there is no room for WAIT_SECONDS."""
        lease = await self._wait(min(size, self.limit), WAIT_SECONDS)
        if lease is None:
            raise RegistryError(Problem.UNAVAILABLE, "too many requests at once; try again", headers=_RETRY_AFTER)
        return lease

    def give_back(self, lease: Lease) -> None:
        """Release the bytes of a lease."""
        self._leases.discard(lease)


class BufferLease(Lease):
    """A buffer, lent until the `with` block ends."""

    def __init__(self, pool: "BufferPool", buffer: Buffer, touched: float) -> None:
        super().__init__(pool, buffer.size, touched)
        self.buffer = buffer
        self.timer: asyncio.Future[None] | None = None  # shared by all fills, since timers are expensive

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the buffer back."""
        if self.timer is not None:
            self.timer.cancel()
        super().__exit__(kind, error, trace)


class BufferPool(Ledger):
    """Lends `count` buffers of `size` bytes. While others wait, a client may take `patience` seconds to fill one."""

    def __init__(
        self,
        streams: Streams,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        size: int,
        count: int,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        super().__init__(now, sleep, size * count)
        self.size = size
        self._patience = patience  # seconds
        self._streams = streams
        # Buffers to use again. A new buffer would need memory beside the old ones until the garbage collector runs.
        self._free: list[Buffer] = []

    def _lease(self, size: int) -> BufferLease:
        buffer = self._free.pop() if self._free else self._streams.buffer(size)
        return BufferLease(self, buffer, self._now())

    def take_now(self) -> BufferLease | None:
        """Lend a buffer; None if none is free, or if other requests wait."""
        return _of_pool(self._take(self.size))

    async def take_within(self, seconds: float) -> BufferLease | None:
        """Lend a buffer as soon as one is free; None if none is free for `seconds`."""
        return _of_pool(await self._wait(self.size, seconds))

    async def take(self) -> BufferLease:
        """Lend a buffer as soon as one is free. Raises 503 if none is free for WAIT_SECONDS."""
        lease = await self.take_within(WAIT_SECONDS)
        if lease is None:
            raise RegistryError(Problem.UNAVAILABLE, "too many uploads at once; try again", headers=_RETRY_AFTER)
        return lease

    async def fill(self, source: Source, lease: BufferLease, stop: int, *, start: int = 0) -> int:
        """Fill a buffer from `start` to `stop`. Raises 503 for a client that is too slow while others wait.

        When the caller is cancelled, the source may go on filling the buffer: so the buffer is never lent again.
        """
        filling = asyncio.ensure_future(source.fill(lease.buffer, start, stop))
        began = self._now()
        while True:
            if lease.timer is None or lease.timer.done():
                lease.timer = asyncio.ensure_future(self._sleep(self._patience / 4))
            try:
                await asyncio.wait((filling, lease.timer), return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                self._leases.discard(lease)
                filling.add_done_callback(lambda done: done.cancelled() or done.exception())  # marks it as retrieved
                raise
            lease.touched = self._now()
            if filling.done():
                return filling.result()
            if self.is_wanted and lease.touched - began > self._patience:
                await source.cancel()
                await settled(filling)
                raise RegistryError(
                    Problem.UNAVAILABLE,
                    "the body arrives too slowly while others wait; try again",
                    headers=_RETRY_AFTER,
                )

    def give_back(self, lease: Lease) -> None:
        """Free the buffer. After the lease expired it may still be in use: then it is never lent again."""
        if lease in self._leases:
            super().give_back(lease)
            assert isinstance(lease, BufferLease)
            if lease.buffer.is_whole:
                self._free.append(lease.buffer)


class Turns:
    """Reads a long stream piece by piece into a buffer, and gives the buffer up between pieces when others wait."""

    def __init__(self, pool: BufferPool) -> None:
        self._pool = pool
        self._lease: BufferLease | None = None

    async def __aenter__(self) -> Self:
        """Return the object itself; `next` takes the buffer."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give the buffer back."""
        self._give_back()

    def _give_back(self) -> None:
        if self._lease is not None:
            with self._lease:
                self._lease = None

    async def next(self, source: Source, wanted: int) -> tuple[Content, int]:
        """The next piece of a source and its size: `wanted` bytes, fewer at the end. It overwrites the last piece."""
        if self._lease is not None and self._pool.is_wanted:
            self._give_back()
        if self._lease is None:
            self._lease = await self._pool.take()
        count = await self._pool.fill(source, self._lease, wanted)
        return self._lease.buffer.slice(0, count), count


def _of_pool(lease: Lease | None) -> BufferLease | None:
    assert lease is None or isinstance(lease, BufferLease)
    return lease
