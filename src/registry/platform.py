"""What the registry needs of the place it runs in: the bucket, streams, time, randomness. Made once per isolate."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from registry.buffers import BufferPool
from registry.retries import RetryingStorage
from registry.storage import Storage, Streams

# Bytes. With 30 MiB of interpreter and 20 of JavaScript heap this stays below the 128 MB of a Worker.
PART_BUFFERS = 48 * 1024 * 1024  # for chunks of unknown length
COPY_BUFFERS = 8 * 1024 * 1024  # for bytes that are passed on


@dataclass(frozen=True, slots=True)
class Platform:
    """Handed to everything below the router."""

    storage: Storage
    streams: Streams
    buffers: BufferPool
    copies: BufferPool
    now: Callable[[], float]  # seconds since the epoch
    sleep: Callable[[float], Awaitable[None]]  # seconds
    random_hex: Callable[[int], str]  # so many random bytes, from a cryptographic source, as hex digits


def make_platform(
    storage: Storage,
    streams: Streams,
    now: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]],
    random_hex: Callable[[int], str],
) -> Platform:
    """A platform whose storage tries again and whose memory is bounded."""
    return Platform(
        RetryingStorage(storage, sleep),
        streams,
        BufferPool(streams, now, sleep, PART_BUFFERS),
        BufferPool(streams, now, sleep, COPY_BUFFERS),
        now,
        sleep,
        random_hex,
    )
