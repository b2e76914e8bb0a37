"""Moving bytes from sources to the storage, without ever holding more than a buffer of them."""

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

DRAIN_SECONDS = 5.0  # for which an unwanted body is read before its answer
DOCUMENT_SECONDS = (
    10.0  # that a document of MEDIUM_DOCUMENT may take to arrive; a larger one may take four times as long
)
SEND_SECONDS = 30.0  # that a client may take to read an answer of 4 MiB
DOCUMENT_FACTOR = 3  # bytes of room for a byte that another registry sends: it, what is parsed, what is made of that


@dataclass(frozen=True, slots=True)
class Span:
    """The next `size` bytes of a source."""

    source: Source
    size: int


async def through_pipe(
    platform: Platform, size: int, write: Callable[[Pipe], Awaitable[None]], store: Callable[[Source], Awaitable[T]]
) -> T:
    """Run `write`, which passes exactly `size` bytes on, beside `store`, which takes them.

    When one of them fails the other is stopped, nothing is stored, and the error of the first is raised.
    """
    pipe = platform.streams.pipe(size)
    storing = asyncio.ensure_future(store(pipe.content))

    async def written() -> None:
        await write(pipe)
        await pipe.close()

    writing = asyncio.ensure_future(written())
    await asyncio.wait((storing, writing), return_when=asyncio.FIRST_EXCEPTION)
    if storing.done() and storing.exception() is not None:
        # It stopped listening: what the writer says of that does not matter.
        writing.cancel()
        await settled(writing)
        return storing.result()
    if writing.exception() is not None:
        await pipe.abort()
        await settled(storing)
        if isinstance(writing.exception(), PipeBroken):
            return storing.result()  # why it stopped reading
    writing.result()
    return storing.result()


async def copy(
    platform: Platform, span: Span, pipe: Pipe, digester: Digester | None = None, *, pool: BufferPool | None = None
) -> None:
    """Pass a span on to a pipe, and to a digester beside it; `pool` is that of copies, unless a client reads the pipe.

    Raises ClientGone when the source ends early.
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
    """Read a source to its end; the digest of its bytes."""
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
    """Read and forget an unwanted body for DRAIN_SECONDS, without Python or a buffer of ours.

    An answer before the end of a large body may reach the client as a broken connection instead (docs/adr/0020). Who
    sends nothing is answered all the same.
    """
    if body.size == 0:
        return
    with contextlib.suppress(TimeoutError):
        await within(DRAIN_SECONDS, platform.sleep, body.discard())


@dataclass(frozen=True, slots=True)
class Document:
    """A document that arrived: its bytes, and the same for the storage; of a large one those stay outside of Python."""

    data: bytes
    content: bytes | Content


@contextlib.asynccontextmanager
async def document(
    platform: Platform, ledger: Ledger, body: Source, limit: int, *, seconds: float = DOCUMENT_SECONDS
) -> AsyncIterator[Document]:
    """A document of at most `limit` bytes; with one byte more than that where it has more.

    Memory is taken as bytes arrive: a little first, then room in a ledger or, for a large one, a buffer, for as long as
    this lasts. Raises TOO_SLOW when the bytes do not arrive in time, and what the source raises.
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
    """The bytes of a small document, with one more than `limit` where it has more. Memory is taken as bytes arrive."""
    data = await source.read(min(SMALL_DOCUMENT, limit + 1))
    return data + await source.read(limit + 1 - len(data)) if len(data) == SMALL_DOCUMENT else data


async def send(
    platform: Platform, lease: Lease, data: bytes, keep_running: Callable[[Awaitable[None]], object]
) -> Source:
    """A body that keeps a lease until the client has it, or for SEND_SECONDS: then it breaks off."""
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
