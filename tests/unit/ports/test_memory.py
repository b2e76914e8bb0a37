"""Bounds on the memory of an isolate's requests: `registry.ports.memory`."""

import asyncio

import pytest

from registry.ports.memory import LEASE_SECONDS, PATIENCE_SECONDS, WAIT_SECONDS, BufferPool, Ledger
from registry.ports.platform import SMALL_DOCUMENT
from registry.ports.storage import Buffer
from registry.spec.errors import RegistryError
from registry.storage.transfer import DOCUMENT_SECONDS, DRAIN_SECONDS
from registry.uploads.parts import SMALL_PART
from tests.fakes.client import Clock, FakeRegistry, digest_of, with_query
from tests.fakes.streams import Chunk, FakeSource, FakeStreams
from tests.images import MANIFEST
from tests.unit.uploads.test_uploads import bytes_of, in_pieces


class TricklingSource(FakeSource):
    """The body of a client that sends nothing for a long time."""

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
    """A clock that tests advance."""
    return Clock()


@pytest.fixture
def pool(clock: Clock) -> BufferPool:
    """A pool of two buffers of 10 bytes."""
    return BufferPool(FakeStreams(), clock, clock.sleep, 10, 2)


async def test_a_buffer_that_may_still_be_filled(pool: BufferPool, clock: Clock) -> None:
    """After a fill is cancelled, the source may still write to the buffer: the pool never lends it again."""
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
    """A third request waits until a buffer is given back."""
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
    """The pool lends a returned buffer before it makes a new one."""
    with await pool.take() as first:
        memory = first.buffer
    with await pool.take() as second:
        assert second.buffer is memory


async def test_waiting_for_a_buffer_times_out(pool: BufferPool, clock: Clock) -> None:
    """A request that finds no buffer for WAIT_SECONDS gets 503 with Retry-After."""
    leases = [await pool.take(), await pool.take()]
    began = clock.now
    with pytest.raises(RegistryError) as caught:
        await pool.take()
    assert caught.value.problem.status == 503
    assert "Retry-After" in caught.value.headers
    assert WAIT_SECONDS <= clock.now - began < WAIT_SECONDS + 1
    assert len(leases) == 2


async def test_a_dropped_request_gives_its_buffer_back(pool: BufferPool, clock: Clock) -> None:
    """The `with` block of a dropped request never ends, but its lease expires."""
    dropped = [await pool.take(), await pool.take()]
    assert pool.take_now() is None
    clock.now += LEASE_SECONDS
    with await pool.take() as lease:
        assert pool.held == 10
    assert pool.take_now() is not None
    for late in dropped:
        with late:
            pass
    assert pool.take_now() not in dropped, "a buffer whose lease expired may still be in use: it is not lent again"
    assert lease.buffer.size == 10


async def test_a_slow_client_may_be_slow_while_nobody_waits(pool: BufferPool, clock: Clock) -> None:
    """A slow client is not refused while no other request waits for its buffer."""
    with await pool.take() as lease:
        assert await pool.fill(TricklingSource(clock, 10 * PATIENCE_SECONDS), lease, 10) == 0


async def test_a_slow_client_is_refused_while_others_wait(pool: BufferPool, clock: Clock) -> None:
    """The slow client gets 503, its body is cancelled, and the waiting request gets the buffer."""
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
    """All uploads succeed, and together they never use more memory than the pool has."""
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


# ---------------------------------------------------------------------- order
async def test_room_is_given_in_order(clock: Clock) -> None:
    """A small lease does not overtake a large one that waits. A request that was dropped while it waited is skipped."""
    ledger = Ledger(clock, clock.sleep, 10)
    held = await ledger.reserve(8)
    order: list[str] = []

    async def take(name: str, size: int) -> None:
        with await ledger.reserve(size):
            order.append(name)

    dropped = asyncio.ensure_future(take("dropped", 10))
    await clock.sleep(0.1)
    dropped.get_coro().close()
    large = asyncio.ensure_future(take("large", 10))
    await clock.sleep(0.1)
    small = asyncio.ensure_future(take("small", 1))
    await clock.sleep(5)
    assert order == []
    assert ledger.is_wanted
    with held:
        pass
    await asyncio.gather(large, small)
    assert order == ["large", "small"]
    assert (ledger.held, ledger.is_wanted) == (0, False)


def slowly(registry: FakeRegistry, data: bytes, *, step: int, seconds: float) -> list[Chunk]:
    """A body that arrives in pieces of `step` bytes, with a pause of `seconds` after each."""
    chunks: list[Chunk] = []
    for at in range(0, len(data), step):
        chunks += [data[at : at + step], lambda: registry.clock.sleep(seconds)]
    return chunks


@pytest.mark.parametrize(("uploads", "rate"), [(10, 1_000_000), (14, 250_000), (5, 50_000)])
@pytest.mark.parametrize("known", [False, True])
async def test_slow_uploads_at_once_all_succeed(registry: FakeRegistry, uploads: int, rate: int, known: bool) -> None:
    """More slow uploads than buffers: none is refused, and memory stays within its limits."""
    registry.pause = 0.0
    registry.side_by_side = True
    registry.bucket.open_limit *= uploads
    size = 2 * SMALL_PART + 100_000

    async def push(number: int) -> None:
        data = bytes_of(size + number)
        started = await registry.call("POST", "/v2/a/blobs/uploads/")
        headers = {"Content-Length": str(len(data))} if known else {}
        body = slowly(registry, data, step=200_000, seconds=200_000 / rate)
        chunk = await registry.call("PATCH", started.location, body, headers=headers)
        assert (chunk.status, chunk.headers["Range"]) == (202, f"0-{len(data) - 1}")
        assert (await registry.call("PUT", with_query(chunk.location, digest=digest_of(data)))).status == 201

    await asyncio.gather(*(push(number) for number in range(uploads)))
    platform = registry.registry.platform
    for pool in (platform.buffers, platform.copies, platform.firsts):
        assert pool.held == 0
        assert pool.peak <= pool.limit
    assert registry.bucket.uploads == {}
    assert registry.bucket.keys("a/uploads/") == []


async def test_a_client_refused_for_slowness_can_resume(
    registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client gets 503 while others wait. The session keeps the stored parts, and the client resumes after them."""
    registry.pause = 0.0
    registry.side_by_side = True
    registry.bucket.open_limit *= 20
    data = bytes_of(SMALL_PART + 3_000_000)
    platform = registry.registry.platform
    started = await registry.call("POST", "/v2/a/blobs/uploads/")

    def stalls() -> list[Chunk]:
        return [data[: SMALL_PART + 2_500_000], lambda: registry.clock.sleep(10_000)]

    stalled = asyncio.ensure_future(registry.call("PATCH", started.location, stalls()))
    await registry.clock.sleep(1)
    others = list(iter(platform.buffers.take_now, None))
    waiting = asyncio.ensure_future(platform.buffers.take_within(100))
    refused = await stalled
    assert (refused.status, refused.codes) == (503, ["TOOMANYREQUESTS"])
    for lease in (*others, await waiting):
        assert lease is not None
        with lease:
            pass
    status = await registry.call("GET", started.location)
    last = int(status.headers["Range"].partition("-")[2])
    assert last + 1 >= SMALL_PART
    rest = await registry.call("PATCH", status.location, [data[last + 1 :]])
    assert (await registry.call("PUT", with_query(rest.location, digest=digest_of(data)))).status == 201
    assert (await registry.call("GET", f"/v2/a/blobs/{digest_of(data)}")).body == data


async def test_manifests_that_stall(registry: FakeRegistry) -> None:
    """A manifest that stops arriving gets 408 within a time limit, however much of it came."""
    registry.pause = 0.0
    for sent in (0, 10, SMALL_DOCUMENT, 100_000, 3_000_000):
        began = registry.clock.now
        body: list[Chunk] = [b"x" * sent, lambda: registry.clock.sleep(10_000)]
        answer = await registry.call(
            "PUT", "/v2/a/manifests/1", body, headers={"Content-Length": "4000000", "Content-Type": MANIFEST}
        )
        assert answer.status == 408
        assert registry.clock.now - began <= 4 * DOCUMENT_SECONDS + DRAIN_SECONDS + 1
    assert registry.registry.platform.medium_documents.held == 0
    assert registry.registry.platform.large_documents.held == 0
