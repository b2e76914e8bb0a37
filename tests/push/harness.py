"""Runs `registry-push` against the registry on fake bindings, behind an edge with a body limit and network faults."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from registry.ports.storage import ClientGone
from registry_push.authentication import Authentication
from registry_push.cache import Cache
from registry_push.client import Client, new_http
from registry_push.compression import Compression
from registry_push.credentials import Credentials
from registry_push.progress import JsonLines
from registry_push.pusher import Pusher
from registry_push.references import parse_target
from registry_push.retries import Retries
from registry_push.sessions import ChunkSizes
from registry_push.sources import Loader
from registry_push.token_servers import TokenServers
from tests.fakes.client import ORIGIN, Answer, FakeRegistry

CREDENTIALS = Credentials("hello", "world")
TARGET = parse_target("https://registry.example/team/app:1", insecure=False)
_BLOCK = 4096  # bytes that arrive at once


class Interrupted(BaseException):
    """Simulates Ctrl-C."""


@dataclass(slots=True)
class FakeEdge(httpx.AsyncBaseTransport):
    """The edge in front of the registry. It injects up to `troubles` faults, which it chooses by a seed."""

    registry: FakeRegistry = field(default_factory=FakeRegistry)
    limit: int | None = None  # bytes of a body; a larger one is answered with 413, as by Cloudflare
    resets: bool = False  # the connection closes before a body above the limit was read, so the 413 is lost
    trouble: random.Random | None = None
    troubles: int = 0
    interrupts: int = 0  # how many of the faults may end the whole program
    # Returns the next fault, or None for none; overrides the seed.
    script: Callable[[], str | None] | None = None
    seen: list[str] = field(default_factory=list)
    bodies: list[int] = field(default_factory=list)
    _running: list[asyncio.Future[Answer]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Lift the limits of one request on bucket operations, since several requests run at once."""
        self.registry.side_by_side = True
        self.registry.bucket.open_limit = 1000

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request of registry-push."""
        assert str(request.url).startswith(f"{ORIGIN}/"), "the credentials left the registry"
        self.seen.append(f"{request.method} {request.url.raw_path.decode()}")
        body = b"".join([block async for block in request.stream])  # type: ignore[union-attr]
        self.bodies.append(len(body))
        if self.limit is not None and len(body) > self.limit:
            if self.resets:
                raise httpx.WriteError("the connection was closed while the body was sent")
            return httpx.Response(413, html="<html>413 Request Entity Too Large</html>")
        kind = self._kind()
        if kind == "busy":
            return httpx.Response(429, headers={"Retry-After": "2"})
        if kind == "broken":
            return httpx.Response(503, html="<html>error 1101</html>")
        if kind == "interrupted":
            raise Interrupted
        if kind == "cut":
            assert self.trouble is not None
            arrived = body[: self.trouble.randrange(len(body) + 1)]
            await self._call(request, arrived, len(body))
            raise httpx.WriteError("the connection was cut")
        answer = await self._call(request, body, len(body))
        if kind == "unheard":
            raise httpx.ReadError("the answer was lost")
        return httpx.Response(answer.status, headers=answer.headers, stream=Unread(answer.body))

    def _kind(self) -> str | None:
        if self.script is not None:
            return self.script()
        if self.trouble is None or self.troubles == 0 or self.trouble.random() < 0.5:
            return None
        self.troubles -= 1
        kinds = ["busy", "broken", "cut", "cut", "unheard"]
        if self.interrupts:
            kinds.append("interrupted")
        kind = self.trouble.choice(kinds)
        if kind == "interrupted":
            self.interrupts -= 1
        return kind

    async def _call(self, request: httpx.Request, body: bytes, size: int) -> Answer:
        def blocks() -> Iterator[bytes | Exception]:
            yield from (body[at : at + _BLOCK] for at in range(0, len(body), _BLOCK))
            if len(body) < size:
                yield ClientGone()

        headers = {name: value for name, value in request.headers.items() if name != "host"}
        headers["content-length"] = str(size)
        target = request.url.raw_path.decode()
        call = self.registry.call(request.method, target, blocks(), headers=headers, user=None)
        task = asyncio.ensure_future(call)
        self._running.append(task)
        return await asyncio.shield(task)  # the registry goes on when its client disconnects

    async def settle(self) -> None:
        """Wait until the registry is done with all requests, including those whose client has disconnected."""
        await asyncio.gather(*self._running)


class Unread(httpx.AsyncByteStream):
    """A response body that the client has not read yet."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the bytes in blocks."""
        for at in range(0, len(self._content), _BLOCK):
            yield self._content[at : at + _BLOCK]


@dataclass(slots=True)
class Run:
    """A run of registry-push, with its output."""

    edge: FakeEdge
    folder: Path
    chunk_size: int | None = None
    retries: int = 12
    dry_run: bool = False
    mount_from: tuple[str, ...] = ()
    credentials: Credentials | None = CREDENTIALS
    compression: Compression = field(default_factory=Compression)
    events: list[str] = field(default_factory=list)
    wire: list[str] = field(default_factory=list)  # the lines of --verbose

    def write(self, text: str) -> int:
        """Record a line: JsonLines takes the run for its output file."""
        self.events.append(text)
        return len(text)

    def flush(self) -> None:
        """Do nothing; JsonLines calls it."""

    async def push(self, source: str, image: str = "team/app:1") -> Pusher:
        """Push an image; returns the pusher, which has the counts."""
        report = JsonLines(self)  # type: ignore[arg-type] # JsonLines only prints
        cache = Cache(self.folder / "cache")
        try:
            loaded = Loader(cache, self.compression, report).load(source, image)
            http = new_http(self.edge)
            pusher = Pusher(
                client=new_client(http, self.credentials, self.retries, self.edge, self.wire.append),
                target=TARGET,
                cache=cache,
                report=report,
                sizes=ChunkSizes(self.chunk_size),
                jobs=3,
                mount_from=self.mount_from,
                dry_run=self.dry_run,
            )
            assert await pusher.push(loaded) == loaded.digest
        finally:
            cache.close()
        return pusher


def new_client(
    http: httpx.AsyncClient,
    credentials: Credentials | None,
    retries: int,
    edge: FakeEdge,
    wire: Callable[[str], None],
) -> Client:
    """A client of the edge's registry that sleeps on the registry's fake clock."""
    scopes = ["repository:team/app:pull,push"]
    authentication = Authentication(http, credentials, scopes, TokenServers(TARGET.registry))
    return Client(http, ORIGIN, authentication, Retries(retries, edge.registry.clock.sleep), wire)
