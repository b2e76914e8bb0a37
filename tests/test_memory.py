"""The memory of all uploads together: `registry.memory`."""

import asyncio

import pytest

from registry.errors import RegistryError
from registry.memory import LEASE_SECONDS, PATIENCE_SECONDS, WAIT_SECONDS, BufferPool
from registry.storage import Buffer
from registry.upload_parts import SMALL_PART
from tests.fakes.client import Clock, FakeRegistry, digest_of, with_query
from tests.fakes.streams import FakeSource, FakeStreams
from tests.test_uploads import bytes_of, in_pieces


class TricklingSource(FakeSource):
    """A client that sends nothing for a long time."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__([b"x"])
        self._clock, self._seconds = clock, seconds
        self.cancelled = False

    async def fill(self, buffer: Buffer, start: int, stop: int) -> int:
        assert start < stop <= buffer.size
        end = self._clock.now + self._seconds
        while self._clock.now < end and not self.cancelled:
            await self._clock.sleep(1)
        return 0

    async def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
def clock() -> Clock:
    """Time that tests move."""
    return Clock()


@pytest.fixture
def pool(clock: Clock) -> BufferPool:
    """Room for two buffers of 10 bytes."""
    return BufferPool(FakeStreams(), clock, clock.sleep, 10, 2)


async def test_a_buffer_that_may_still_be_filled(pool: BufferPool, clock: Clock) -> None:
    """Who is cancelled while a source fills a buffer gives back no buffer for others."""
    source = TricklingSource(clock, 5)
    lease = await pool.take()

    async def fill() -> None:
        with lease:
            await pool.fill(source, lease, 10)

    filling = asyncio.ensure_future(fill())
    await asyncio.sleep(0)
    filling.cancel()
    await asyncio.wait((filling,))
    with await pool.take() as other:
        assert other.buffer is not lease.buffer


async def test_no_more_than_the_limit(pool: BufferPool) -> None:
    """A third one waits until one is given back."""
    first, second = await pool.take(), await pool.take()
    assert pool.take_now() is None
    waiting = asyncio.ensure_future(pool.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    with first:
        pass
    with await waiting:
        assert (pool.held, pool.peak) == (20, 20)
    with second:
        pass
    assert pool.held == 0


async def test_buffers_are_used_again(pool: BufferPool) -> None:
    """Memory that was given back is handed out before new memory is."""
    with await pool.take() as first:
        memory = first.buffer
    with await pool.take() as second:
        assert second.buffer is memory


async def test_who_waits_too_long_is_told(pool: BufferPool, clock: Clock) -> None:
    """503 with Retry-After."""
    leases = [await pool.take(), await pool.take()]
    began = clock.now
    with pytest.raises(RegistryError) as caught:
        await pool.take()
    assert caught.value.problem.status == 503
    assert "Retry-After" in caught.value.headers
    assert WAIT_SECONDS <= clock.now - began < WAIT_SECONDS + 1
    assert len(leases) == 2


async def test_a_dropped_request_gives_its_buffer_back(pool: BufferPool, clock: Clock) -> None:
    """Its `with` never ends, but the lease does."""
    dropped = [await pool.take(), await pool.take()]
    assert pool.take_now() is None
    clock.now += LEASE_SECONDS
    with await pool.take() as lease:
        assert pool.held == 10
    assert pool.take_now() is not None
    for late in dropped:
        with late:
            pass
    assert pool.take_now() not in dropped, "who still uses it after its lease does not share it"
    assert lease.buffer.size == 10


async def test_a_slow_client_may_be_slow_while_nobody_waits(pool: BufferPool, clock: Clock) -> None:
    """It only costs others something when they wait."""
    with await pool.take() as lease:
        assert await pool.fill(TricklingSource(clock, 10 * PATIENCE_SECONDS), lease, 10) == 0


async def test_a_slow_client_makes_room_for_who_waits(pool: BufferPool, clock: Clock) -> None:
    """503 for the slow one, its body is given up, and the other goes on."""
    source = TricklingSource(clock, 10 * PATIENCE_SECONDS)

    async def slow() -> None:
        with await pool.take() as lease:
            await pool.fill(source, lease, 10)

    trickling = asyncio.ensure_future(slow())
    await asyncio.sleep(0)
    with await pool.take(), await pool.take():
        pass
    with pytest.raises(RegistryError) as caught:
        await trickling
    assert caught.value.problem.status == 503
    assert source.cancelled


async def test_twenty_uploads_at_once(registry: FakeRegistry) -> None:
    """All are acknowledged; together they never hold more than the pool has."""
    registry.side_by_side = True
    registry.bucket.open_limit *= 20
    blobs = [bytes_of(2 * SMALL_PART + number) for number in range(20)]

    async def push(data: bytes) -> None:
        started = await registry.call("POST", "/v2/a/blobs/uploads/")
        assert started.status == 202, started
        chunk = await registry.call("PATCH", started.location, in_pieces(data))
        assert chunk.status == 202, chunk
        assert (await registry.call("PUT", with_query(chunk.location, digest=digest_of(data)))).status == 201

    await asyncio.gather(*(push(data) for data in blobs))
    buffers = registry.registry.platform.buffers
    assert 0 < buffers.peak <= buffers.limit
    assert buffers.held == 0
    assert registry.registry.platform.copies.held == 0
