"""What the registry needs of the place it runs in: the bucket, streams, time, randomness. Made once per isolate."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from registry.ports.crypto import Crypto
from registry.ports.memory import BufferPool, Ledger
from registry.ports.retries import RetryingStorage
from registry.ports.storage import Storage, Streams
from registry.ports.web import Web
from registry.telemetry.counting import count
from registry.telemetry.metrics import DataPoints

# With 36 to 55 MiB of interpreter and 15 to 30 of JavaScript heap, 36 MiB of buffers stay below the 128 MB of a Worker
# (make bench-memory). Sizes in bytes.
PART_BUFFER, PART_BUFFERS = 8 * 1024 * 1024, 3  # a part of a chunk of unknown length
COPY_BUFFER, COPY_BUFFERS = 256 * 1024, 16  # bytes that are passed on: each turn costs about a millisecond of awaits
# The same for what goes to clients, which may not read it: apart, so that pulls never hold what pushes need.
ANSWER_BUFFERS = 16
ANSWER_SECONDS = 10.0  # that a client may take to read a buffer of it
# The first bytes of a chunk of unknown length: who sends no more than that, or slowly, needs no larger buffer. Apart
# from the copies, since who holds one waits for a large one, and who holds a large one may wait for a copy.
FIRST_BUFFER, FIRST_BUFFERS = 256 * 1024, 16
# A manifest that is pushed takes no room up to SMALL_DOCUMENT, and room in a ledger up to MEDIUM_DOCUMENT. A larger one
# gets a buffer, which is used again; what is parsed of it takes up to 35 MiB while nothing else runs.
SMALL_DOCUMENT, MEDIUM_DOCUMENT, LARGE_DOCUMENT = 16 * 1024, 256 * 1024, 4 * 1024 * 1024 + 1
MEDIUM_DOCUMENTS = 4 * 1024 * 1024  # bytes of all at once
LARGE_DOCUMENTS = 1
DOCUMENT_PATIENCE = 5.0  # seconds that the sender of a large one may take while others wait
# Manifests that come from other registries, and lists that go to clients, until they are sent.
PULLED_DOCUMENTS = 12 * 1024 * 1024
# Forms of the token endpoint, which anybody may send: apart, so that nobody without credentials holds what others need.
FORMS = 1024 * 1024


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
    streams: Streams
    buffers: BufferPool
    copies: BufferPool
    answers: BufferPool
    firsts: BufferPool
    medium_documents: Ledger
    large_documents: BufferPool
    pulled_documents: Ledger
    forms: Ledger
    crypto: Crypto
    web: Web
    now: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    random_hex: Callable[[int], str]
    points: DataPoints | None


def make_platform(storage: Storage, streams: Streams, machine: Machine) -> Platform:
    """A platform whose storage tries again and whose memory is bounded."""
    now, sleep = machine.now, machine.sleep
    return Platform(
        RetryingStorage(storage, now, sleep, count),
        streams,
        BufferPool(streams, now, sleep, PART_BUFFER, PART_BUFFERS),
        BufferPool(streams, now, sleep, COPY_BUFFER, COPY_BUFFERS),
        BufferPool(streams, now, sleep, COPY_BUFFER, ANSWER_BUFFERS),
        BufferPool(streams, now, sleep, FIRST_BUFFER, FIRST_BUFFERS),
        Ledger(now, sleep, MEDIUM_DOCUMENTS),
        BufferPool(streams, now, sleep, LARGE_DOCUMENT, LARGE_DOCUMENTS, DOCUMENT_PATIENCE),
        Ledger(now, sleep, PULLED_DOCUMENTS),
        Ledger(now, sleep, FORMS),
        machine.crypto,
        machine.web,
        now,
        sleep,
        machine.random_hex,
        machine.points,
    )
