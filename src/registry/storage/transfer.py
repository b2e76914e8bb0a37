"""Transfers bytes from sources to the storage; memory never holds more than a buffer of them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from registry.ports.memory import BufferPool, Lease, Ledger, Turns
from registry.ports.platform import COPY_BUFFER, MEDIUM_DOCUMENT, SMALL_DOCUMENT, Platform
from registry.ports.storage import Body, ClientGone, Content, Digester, Pipe, PipeBroken, Source
from registry.ports.tasks import beside, settled, within
from registry.spec.errors import Problem, RegistryError
from registry.spec.names import Digest

T = TypeVar("T")

DRAIN_SECONDS = 5.0  # for which an unwanted body is read before the answer is sent
# That a document of MEDIUM_DOCUMENT may take to arrive; a larger one may take four times as long.
DOCUMENT_SECONDS = 10.0
SEND_SECONDS = 30.0  # that a client may take to read an answer of 4 MiB
DOCUMENT_FACTOR = 3  # bytes of memory per byte of an upstream's document: received, parsed, and the result


@dataclass(frozen=True, slots=True)
class Span:
    """The next `size` bytes of a source."""

    source: Source
    size: int


async def through_pipe(
    platform: Platform, size: int, write: Callable[[Pipe], Awaitable[None]], store: Callable[[Source], Awaitable[T]]
) -> T:
    """Run `write`, which writes exactly `size` bytes to a pipe, concurrently with `store`, which reads them.

    When one of them fails, the other is stopped, nothing is stored, and the first error is raised.
    """
    pipe = platform.streams.pipe(size)
    storing = asyncio.ensure_future(store(pipe.content))

    async def written() -> None:
        await write(pipe)
        await pipe.close()

    writing = asyncio.ensure_future(written())
    await asyncio.wait((storing, writing), return_when=asyncio.FIRST_EXCEPTION)
    if storing.done() and storing.exception() is not None:
        # The reader failed: the writer's error is only a consequence.
        writing.cancel()
        await settled(writing)
        return storing.result()
    if writing.exception() is not None:
        await pipe.abort()
        await settled(storing)
        if isinstance(writing.exception(), PipeBroken):
            return storing.result()  # raises the reader's error, which is the cause
    writing.result()
    return storing.result()


async def copy(
    platform: Platform, span: Span, pipe: Pipe, digester: Digester | None = None, *, pool: BufferPool | None = None
) -> None:
    """Copy a span to a pipe, and also to `digester` if given. Without `pool` the buffers are the platform's `copies`.

    A client's download needs another pool. Raises ClientGone when the source ends early.
    """
    left = span.size
    if left == 0:
        return
    async with Turns(pool or platform.copies) as turns:
        while left:
            content, count = await turns.next(span.source, min(left, COPY_BUFFER))
            if count == 0:
                raise ClientGone("the body ended before its Content-Length")
            left -= count
            if digester is None:
                await pipe.write(content)
            else:
                await beside(pipe.write(content), digester.update(content))


async def digest_of(platform: Platform, source: Source, algorithm: str) -> Digest:
    """Read a source to its end and return the digest of its bytes."""
    digester = platform.streams.digester(algorithm)
    try:
        async with Turns(platform.copies) as turns:
            content, count = await turns.next(source, COPY_BUFFER)
            while count:
                await digester.update(content)
                content, count = await turns.next(source, COPY_BUFFER)
    except BaseException:
        await digester.abort()
        await source.cancel()
        raise
    return await digester.digest()


async def drain(platform: Platform, body: Body) -> None:
    """Read and discard an unwanted body for up to DRAIN_SECONDS, without Python or a buffer of the registry.

    If the answer precedes the end of a large body, the client may see a broken connection instead (docs/adr/0020).
    A client that sends nothing gets its answer after DRAIN_SECONDS.
    """
    if body.size == 0:
        return
    with contextlib.suppress(TimeoutError):
        await within(DRAIN_SECONDS, platform.sleep, body.discard())


@dataclass(frozen=True, slots=True)
class Document:
    """A received document: its bytes, and the same content for the storage, outside Python if it is large."""

    data: bytes
    content: bytes | Content


@contextlib.asynccontextmanager
async def document(
    platform: Platform, ledger: Ledger, body: Source, limit: int, *, seconds: float = DOCUMENT_SECONDS
) -> AsyncIterator[Document]:
    """Receive a document of at most `limit` bytes; of a larger one, `limit` + 1 bytes, for the caller to refuse.

    Memory is reserved as bytes arrive: a little first, then room in a ledger or, for a large document, a buffer, until
    the `with` block ends. Raises TOO_SLOW when the bytes do not arrive in time, and the errors of the source.
    """
    with contextlib.ExitStack() as leases:
        try:
            data = await within(seconds, platform.sleep, body.read(min(SMALL_DOCUMENT, limit + 1)))
            size = min(limit if body.size is None else body.size, limit)
            if not SMALL_DOCUMENT <= len(data) <= limit:
                read = Document(data, data)
            elif size <= MEDIUM_DOCUMENT:
                leases.enter_context(await ledger.reserve(size))
                data += await within(seconds, platform.sleep, body.read(size + 1 - len(data)))
                read = Document(data, data)
            else:
                pool = platform.large_documents
                lease = leases.enter_context(await pool.take())
                lease.buffer.copy(0, platform.streams.content(data))
                filling = pool.fill(body, lease, limit + 1, start=len(data))
                count = len(data) + await within(4 * seconds, platform.sleep, filling)
                read = Document(lease.buffer.read(count), lease.buffer.slice(0, count))
        except TimeoutError:
            await body.cancel()
            raise RegistryError(Problem.TOO_SLOW) from None
        yield read


async def read_all(source: Source, limit: int) -> bytes:
    """Read a small document; of one larger than `limit`, `limit` + 1 bytes. Memory is used as bytes arrive."""
    data = await source.read(min(SMALL_DOCUMENT, limit + 1))
    return data + await source.read(limit + 1 - len(data)) if len(data) == SMALL_DOCUMENT else data


async def send(
    platform: Platform, lease: Lease, data: bytes, keep_running: Callable[[Awaitable[None]], object]
) -> Source:
    """A body for an answer. It holds a lease until the client has read it. After SEND_SECONDS it breaks off."""
    pipe = platform.streams.pipe(len(data))

    async def write() -> None:
        await pipe.write(platform.streams.content(data))
        await pipe.close()

    async def run() -> None:
        with lease:
            try:
                await within(SEND_SECONDS, platform.sleep, write())
            except PipeBroken:
                pass
            except TimeoutError:
                await pipe.abort()

    keep_running(run())
    return pipe.content
