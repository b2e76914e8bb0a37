"""Moving bytes from sources to the storage, without ever holding more than a buffer of them."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from registry.errors import RegistryError
from registry.names import Digest
from registry.platform import COPY_BUFFER, Platform
from registry.storage import ClientGone, Digester, Pipe, PipeBroken, Source
from registry.tasks import beside, settled

T = TypeVar("T")


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


async def copy(platform: Platform, span: Span, pipe: Pipe, digester: Digester | None = None) -> None:
    """Pass a span on to a pipe, and to a digester beside it. Raises ClientGone when the source ends early."""
    left = span.size
    if left == 0:
        return
    with await platform.copies.take() as lease:
        while left:
            count = await platform.copies.fill(span.source, lease, min(left, COPY_BUFFER))
            if count == 0:
                raise ClientGone("the body ended before its Content-Length")
            left -= count
            content = lease.buffer.slice(0, count)
            if digester is None:
                await pipe.write(content)
            else:
                await beside(pipe.write(content), digester.update(content))


async def digest_of(platform: Platform, source: Source, algorithm: str) -> Digest:
    """Read a source to its end; the digest of its bytes."""
    digester = platform.streams.digester(algorithm)
    try:
        with await platform.copies.take() as lease:
            while count := await platform.copies.fill(source, lease, COPY_BUFFER):
                await digester.update(lease.buffer.slice(0, count))
    except BaseException:
        await digester.abort()
        await source.cancel()
        raise
    return await digester.digest()


async def drain(platform: Platform, source: Source, limit: int) -> None:
    """Read and forget at most `limit` bytes, then give the rest up.

    An answer before the end of a large body reaches the client as a broken connection instead (docs/adr/0009).
    """
    if source.size == 0:
        return
    with contextlib.suppress(ClientGone, RegistryError):
        with await platform.copies.take() as lease:
            while limit > 0 and (count := await platform.copies.fill(source, lease, COPY_BUFFER)):
                limit -= count
        await source.cancel()
