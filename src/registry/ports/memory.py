"""The memory of all requests of an isolate together: a Worker has 128 MB, the interpreter included.

A `Ledger` counts the bytes of one purpose; a `BufferPool` also hands out the buffers. A request must not wait for
another one's promise, so who finds no room polls; requests are served in the order in which they came. A request that
is dropped may never give its share back, so a lease ends by itself.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from registry.ports.storage import Buffer, Content, Source, Streams
from registry.ports.tasks import settled
from registry.spec.errors import Problem, RegistryError

POLL_SECONDS = 0.05  # between the first two looks for room; each later pause is twice as long, up to the next one
_MAX_POLL_SECONDS = 0.4
WAIT_SECONDS = 30.0  # for room; then 503, and the client tries again
LEASE_SECONDS = 120.0  # after which what nobody touched counts as given back
PATIENCE_SECONDS = 20.0  # a client may take to fill a buffer while others wait for one
_GONE_SECONDS = 2.0  # after which one that waits and does not poll was dropped
_RETRY_AFTER = {"Retry-After": "5"}  # seconds


class Lease:
    """A share of a ledger for as long as a `with` lasts."""

    def __init__(self, ledger: "Ledger", size: int, touched: float) -> None:
        self._ledger = ledger
        self.size = size  # bytes
        self.touched = touched  # seconds since the epoch

    def __enter__(self) -> Self:
        """Use it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        self._ledger.give_back(self)


class Ledger:
    """At most `limit` bytes at once. `held` and `peak` are bytes that are, or were, in use at once."""

    def __init__(self, now: Callable[[], float], sleep: Callable[[float], Awaitable[None]], limit: int) -> None:
        self.limit = limit
        self.peak = 0
        self._now = now
        self._sleep = sleep
        self._leases: set[Lease] = set()
        # Who waits, in order, and when each last looked.
        self._waiting: dict[object, float] = {}

    @property
    def held(self) -> int:
        """Bytes in use; leases that ended are forgotten."""
        oldest = self._now() - LEASE_SECONDS
        self._leases = {lease for lease in self._leases if lease.touched > oldest}
        return sum(lease.size for lease in self._leases)

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for room."""
        return self._first() is not None

    def _first(self) -> object:
        """Who waits longest; those who were dropped are forgotten."""
        oldest = self._now() - _GONE_SECONDS
        while self._waiting:
            first = next(iter(self._waiting))
            if self._waiting[first] > oldest:
                return first
            del self._waiting[first]
        return None

    def _take(self, size: int, ticket: object = None) -> Lease | None:
        """A share, or None: no room, or others wait before the one with this ticket."""
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
        """A share as soon as there is one; None when there is none for so long."""
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
        """Room for `size` bytes, at most the limit; 503 when there is none for WAIT_SECONDS."""
        lease = await self._wait(min(size, self.limit), WAIT_SECONDS)
        if lease is None:
            raise RegistryError(Problem.UNAVAILABLE, "too many requests at once; try again", headers=_RETRY_AFTER)
        return lease

    def give_back(self, lease: Lease) -> None:
        """The share is free."""
        self._leases.discard(lease)


class BufferLease(Lease):
    """A buffer for as long as a `with` lasts."""

    def __init__(self, pool: "BufferPool", buffer: Buffer, touched: float) -> None:
        super().__init__(pool, buffer.size, touched)
        self.buffer = buffer
        self.timer: asyncio.Future[None] | None = None  # one for all fills: timers cost

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        if self.timer is not None:
            self.timer.cancel()
        super().__exit__(kind, error, trace)


class BufferPool(Ledger):
    """Hands out `count` buffers of `size` bytes; a client may take `patience` to fill one while others wait."""

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
        # Given back: a new one would wait beside them for the garbage collector.
        self._free: list[Buffer] = []

    def _lease(self, size: int) -> BufferLease:
        buffer = self._free.pop() if self._free else self._streams.buffer(size)
        return BufferLease(self, buffer, self._now())

    def take_now(self) -> BufferLease | None:
        """A buffer, or None when there is none left, or others wait."""
        return _of_pool(self._take(self.size))

    async def take_within(self, seconds: float) -> BufferLease | None:
        """A buffer, as soon as there is one; None when there is none for so long."""
        return _of_pool(await self._wait(self.size, seconds))

    async def take(self) -> BufferLease:
        """A buffer, as soon as there is one; 503 when there is none for WAIT_SECONDS."""
        lease = await self.take_within(WAIT_SECONDS)
        if lease is None:
            raise RegistryError(Problem.UNAVAILABLE, "too many uploads at once; try again", headers=_RETRY_AFTER)
        return lease

    async def fill(self, source: Source, lease: BufferLease, stop: int, *, start: int = 0) -> int:
        """Fill a buffer from `start` to `stop`; 503 for a client so slow that others wait for its buffer.

        Who is cancelled here leaves the buffer to the source, which may go on filling it: nobody gets it again.
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
                filling.add_done_callback(lambda done: done.cancelled() or done.exception())  # what it says is nobody's
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
        """The buffer is free, unless the lease ended before: then it may still be in use, and nobody gets it again."""
        if lease in self._leases:
            super().give_back(lease)
            assert isinstance(lease, BufferLease)
            if lease.buffer.is_whole:
                self._free.append(lease.buffer)


class Turns:
    """A buffer for one piece after the other of a long stream: between two of them others get it when they wait."""

    def __init__(self, pool: BufferPool) -> None:
        self._pool = pool
        self._lease: BufferLease | None = None

    async def __aenter__(self) -> Self:
        """Begin."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give it back."""
        self._give_back()

    def _give_back(self) -> None:
        if self._lease is not None:
            with self._lease:
                self._lease = None

    async def next(self, source: Source, wanted: int) -> tuple[Content, int]:
        """What comes next of a source, `wanted` bytes or fewer at its end, and how many; the last piece was used."""
        if self._lease is not None and self._pool.is_wanted:
            self._give_back()
        if self._lease is None:
            self._lease = await self._pool.take()
        count = await self._pool.fill(source, self._lease, wanted)
        return self._lease.buffer.slice(0, count), count


def _of_pool(lease: Lease | None) -> BufferLease | None:
    assert lease is None or isinstance(lease, BufferLease)
    return lease
