"""The runtime as the registry sees it: the bucket, streams, time, randomness. Made once per isolate."""

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
COPY_BUFFER, COPY_BUFFERS = 256 * 1024, 16  # for copying streams: each piece costs about a millisecond of awaits
# The same for answers, which a client may not read. They are separate, so that pulls never block pushes.
ANSWER_BUFFERS = 16
ANSWER_SECONDS = 10.0  # that a client may take to read a buffer of an answer
# For the first bytes of a chunk of unknown length: a short or slow chunk needs no larger buffer. Separate from the copy
# buffers to avoid a deadlock: the holder of a first buffer waits for a large one, and the holder of a large one may
# wait for a copy buffer.
FIRST_BUFFER, FIRST_BUFFERS = 256 * 1024, 16
# A pushed manifest of at most SMALL_DOCUMENT bytes is not counted; one of at most MEDIUM_DOCUMENT has room in a ledger.
# A larger one has a buffer, which is used again; its parsed form takes up to 35 MiB while nothing else runs.
SMALL_DOCUMENT, MEDIUM_DOCUMENT, LARGE_DOCUMENT = 16 * 1024, 256 * 1024, 4 * 1024 * 1024 + 1
MEDIUM_DOCUMENTS = 4 * 1024 * 1024  # bytes of all at once
LARGE_DOCUMENTS = 1
DOCUMENT_PATIENCE = 5.0  # seconds that the client may take to send a large document while others wait
# Manifests from upstream registries, and lists for clients, until they are sent.
PULLED_DOCUMENTS = 12 * 1024 * 1024
# Forms for the token endpoint, open to all clients. Separate, so that clients without credentials block no others.
FORMS = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Machine:
    """The parts of the runtime other than storage and streams."""

    crypto: Crypto
    web: Web
    now: Callable[[], float]  # seconds since the epoch
    sleep: Callable[[float], Awaitable[None]]  # seconds
    random_hex: Callable[[int], str]  # this number of random bytes, from a cryptographic source, as hex digits
    points: DataPoints | None = None


@dataclass(frozen=True, slots=True)
class Platform:
    """Everything that code below the router needs of the runtime."""

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
    """Make a platform whose storage retries failed calls and whose memory is bounded."""
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
