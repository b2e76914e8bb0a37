"""What the registry needs of the place it runs in: the bucket, streams, time, randomness. Made once per isolate."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from registry.buffers import BufferPool
from registry.counting import CountingStorage
from registry.crypto import Crypto
from registry.metrics import DataPoints
from registry.retries import RetryingStorage
from registry.storage import Storage, Streams
from registry.web import Web

# With 30 MiB of interpreter and 20 to 40 of JavaScript heap, 40 MiB of buffers stay below the 128 MB of a Worker
# (make bench-memory). Sizes in bytes.
PART_BUFFER, PART_BUFFERS = 8 * 1024 * 1024, 4  # a part of a chunk of unknown length
COPY_BUFFER, COPY_BUFFERS = 256 * 1024, 16  # bytes that are passed on: each turn costs about a millisecond of awaits
# The first bytes of a chunk of unknown length: who sends no more than that, or slowly, needs no larger buffer. Apart
# from the copies, since who holds one waits for a large one, and who holds a large one may wait for a copy.
FIRST_BUFFER, FIRST_BUFFERS = 256 * 1024, 16


@dataclass(frozen=True, slots=True)
class Machine:
    """What else there is where the registry runs."""

    crypto: Crypto
    web: Web
    now: Callable[[], float]  # seconds since the epoch
    sleep: Callable[[float], Awaitable[None]]  # seconds
    random_hex: Callable[[int], str]  # so many random bytes, from a cryptographic source, as hex digits
    points: DataPoints | None = None


@dataclass(frozen=True, slots=True)
class Platform:
    """Handed to everything below the router."""

    storage: Storage
    once: Storage  # the same, that sends each call once: for a caller who has to look at something before each attempt
    streams: Streams
    buffers: BufferPool
    copies: BufferPool
    firsts: BufferPool
    crypto: Crypto
    web: Web
    now: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    random_hex: Callable[[int], str]
    points: DataPoints | None


def make_platform(storage: Storage, streams: Streams, machine: Machine) -> Platform:
    """A platform whose storage tries again and whose memory is bounded."""
    now, sleep = machine.now, machine.sleep
    once = CountingStorage(storage)
    return Platform(
        RetryingStorage(once, sleep),
        once,
        streams,
        BufferPool(streams, now, sleep, PART_BUFFER, PART_BUFFERS),
        BufferPool(streams, now, sleep, COPY_BUFFER, COPY_BUFFERS),
        BufferPool(streams, now, sleep, FIRST_BUFFER, FIRST_BUFFERS),
        machine.crypto,
        machine.web,
        now,
        sleep,
        machine.random_hex,
        machine.points,
    )
