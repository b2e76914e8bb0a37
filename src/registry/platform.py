"""What the registry needs of the place it runs in: the bucket, streams, time, randomness. Made once per isolate."""

from collections.abc import Callable
from dataclasses import dataclass

from registry.storage import Storage, Streams


@dataclass(frozen=True, slots=True)
class Platform:
    """Handed to everything below the router."""

    storage: Storage
    streams: Streams
    now: Callable[[], float]  # seconds since the epoch
    random_hex: Callable[[int], str]  # so many random bytes, from a cryptographic source, as hex digits
