"""`registry-push proxy`: a registry on this machine that passes everything on, and cuts what is pushed into chunks."""

import asyncio
import json
import logging
import re
import socket
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import httpx
import uvicorn

from registry_push.authentication import AsGiven, Authentication
from registry_push.client import Client, body_of, shown
from registry_push.credentials import Credentials
from registry_push.cutting import Cutter
from registry_push.failures import Failure, Misused, Refused, SessionGone, Unreachable
from registry_push.images import LARGEST_MANIFEST
from registry_push.references import Registry, is_loopback
from registry_push.retries import Retries
from registry_push.sessions import ChunkSizes, Session

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_UPLOADS = re.compile(r"/v2/(?P<name>[^?]+)/blobs/uploads/[^/?]*", re.ASCII)
_REPOSITORY = re.compile(r"/v2/(?P<name>[^?]+)/(?:blobs|manifests|tags|referrers)/", re.ASCII)
# Of a connection, not of a message (RFC 9110, 7.6.1); `host` and `content-length` are written anew.
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding"}
    | {"upgrade", "host", "content-length", "expect"}
)
_RETRIES = 3  # of what is passed on: the client has its own patience
_KNOWN_SESSIONS = 1000
_CLOSING_SECONDS = 5


class ClientLeft(Exception):
    """The client closed the connection before its request was over."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request to the proxy."""

    method: str
    target: str  # path and query, as they came
    headers: Mapping[str, str]
    receive: Receive

    @property
    def has_body(self) -> bool:
        """Whether bytes follow; a body may still turn out to be empty."""
        return "transfer-encoding" in self.headers or self.headers.get("content-length", "0") != "0"

    def passed_on(self) -> dict[str, str]:
        """The headers for the registry, without the credentials."""
        kept = {name: value for name, value in self.headers.items() if name not in _HOP_BY_HOP}
        kept.pop("authorization", None)
        return kept

    async def body(self) -> AsyncIterator[bytes]:
        """The body; raises ClientLeft when it breaks off."""
        more = self.has_body
        while more:
            event = await self.receive()
            if event["type"] == "http.disconnect":
                raise ClientLeft
            if event.get("body"):
                yield event["body"]
            more = event.get("more_body", False)


@dataclass(slots=True)
class Proxy:
    """An ASGI application before one registry."""

    http: httpx.AsyncClient
    registry: Registry
    credentials: Credentials | None
    sizes: ChunkSizes
    retries: Retries
    say: Callable[[str], None]
    wire: Callable[[str], None]
    insecure: bool = False
    # How far the sessions are that were seen: one that is not among them is asked first.
    _offsets: OrderedDict[str, int] = field(default_factory=OrderedDict)
    _logins: dict[str, Authentication] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        target = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            target += "?" + scope["query_string"].decode("latin-1")
        request = Incoming(scope["method"], target, headers, receive)
        try:
            await self._answer(request, send)
        except ClientLeft:
            self.say(f"{request.method} {shown(target)}: the client left")
        except Failure as failure:
            self.say(f"{request.method} {shown(target)}: {failure}")
            await _send_failure(send, failure)

    async def _answer(self, request: Incoming, send: Send) -> None:
        if self.credentials is not None and "origin" in request.headers:
            # Else any web page that is open on this machine could use them.
            raise Refused("with credentials of its own the proxy serves no web pages")
        upload = _UPLOADS.fullmatch(request.target.partition("?")[0])
        if upload is None or request.method not in ("PATCH", "PUT", "POST"):
            await self._pass_on(request, send)
        elif request.method == "PATCH":
            await self._append(request, send)
        elif request.method == "PUT":
            await self._close(request, upload["name"], send)
        elif request.has_body:
            await self._push_at_once(request, upload["name"], send)
        else:
            await self._begin(request, send)

    async def serve(self, host: str, port: int) -> None:
        """Serve until a signal comes; OSError when the address is taken."""
        if self.credentials is not None and not (is_loopback(host) or self.insecure):
            raise Misused(f"whoever reaches {host} could push with your credentials; --insecure allows it")
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # `say` tells what happens
        config = uvicorn.Config(
            self,
            log_config=None,
            access_log=False,
            lifespan="off",
            interface="asgi3",
            ws="none",
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=_CLOSING_SECONDS,
        )
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family) as listener:
            shown = f"[{host}]" if ":" in host else host
            self.say(f"listening on http://{shown}:{listener.getsockname()[1]}, passing on to {self.registry.origin}")
            await uvicorn.Server(config).serve(sockets=[listener])

    # ------------------------------------------------------------------ uploads
    async def _begin(self, request: Incoming, send: Send) -> None:
        response = await self._client(request).ask("POST", request.target, request.passed_on())
        if response.status_code == 202 and "location" in response.headers:
            self.sizes.learn(response.headers)
            self._remember(response.url.join(response.headers["location"]), 0)
        await self._respond(send, response.status_code, response.headers, response.content)

    async def _append(self, request: Incoming, send: Send) -> None:
        cutter = await self._cutter(request, httpx.URL(self.registry.origin).join(request.target))
        await cutter.append(request.body())
        session = cutter.session
        self._remember(session.location, session.offset)
        headers = httpx.Headers(session.headers)
        headers["Location"] = str(session.location)
        headers["Range"] = f"0-{max(0, session.offset - 1)}"
        await self._respond(send, 202, headers, b"")

    async def _close(self, request: Incoming, name: str, send: Send) -> None:
        path, _, query = request.target.partition("?")
        pairs = [pair for pair in query.split("&") if pair]
        digests = [unquote(pair.partition("=")[2]) for pair in pairs if pair.startswith("digest=")]
        if len(digests) != 1:
            await self._pass_on(request, send)
            return
        rest = "&".join(pair for pair in pairs if not pair.startswith("digest="))
        location = httpx.URL(self.registry.origin).join(path + (f"?{rest}" if rest else ""))
        await self._finish(await self._cutter(request, location), request, name, digests[0], send)

    async def _push_at_once(self, request: Incoming, name: str, send: Send) -> None:
        """POST with a whole blob becomes a session of its own."""
        digests = httpx.QueryParams(request.target.partition("?")[2]).get_list("digest")
        if len(digests) != 1:
            await self._pass_on(request, send)
            return
        client = self._client(request)
        response = await client.ask("POST", f"/v2/{name}/blobs/uploads/")
        if response.status_code != 202 or "location" not in response.headers:
            await self._respond(send, response.status_code, response.headers, response.content)
            return
        self.sizes.learn(response.headers)
        session = Session(client, response.url.join(response.headers["location"]), self.sizes)
        await self._finish(Cutter(client, session, self.sizes), request, name, digests[0], send)

    async def _finish(self, cutter: Cutter, request: Incoming, name: str, digest: str, send: Send) -> None:
        response = await cutter.close(request.body(), digest, f"/v2/{name}/blobs/{digest}")
        await self._respond(send, response.status_code, response.headers, response.content)

    async def _cutter(self, request: Incoming, location: httpx.URL) -> Cutter:
        client = self._client(request)
        session = Session(client, location, self.sizes)
        known = self._offsets.pop(str(location), None)
        if known is None:
            await session.look()
        else:
            session.offset = known
        given = re.match(r"(?:bytes )?(\d{1,15})-", request.headers.get("content-range", ""), re.ASCII)
        if given is not None and int(given[1]) != session.offset:
            await session.look()
            if int(given[1]) != session.offset:
                raise _OutOfOrder(session)
        return Cutter(client, session, self.sizes)

    def _remember(self, location: httpx.URL, offset: int) -> None:
        self._offsets[str(location)] = offset
        if len(self._offsets) > _KNOWN_SESSIONS:
            self._offsets.popitem(last=False)

    # ------------------------------------------------------------------ everything else
    async def _pass_on(self, request: Incoming, send: Send) -> None:
        content = bytearray()
        async for block in request.body():
            content += block
            if len(content) > LARGEST_MANIFEST:
                raise Failure(f"more than {LARGEST_MANIFEST} bytes, which only a blob may have")

        headers = request.passed_on()
        if request.has_body:
            headers["Content-Length"] = str(len(content))
        client = self._client(request)
        body = body_of(bytes(content)) if request.has_body else None
        response = await client.ask(request.method, request.target, headers, body, unread=True)
        try:
            await self._stream(request, response, send)
        finally:
            await response.aclose()

    async def _stream(self, request: Incoming, response: httpx.Response, send: Send) -> None:
        """Pass an answer on while it arrives. When it breaks off, or the client leaves, so does the other side."""
        await send(self._start(response.status_code, response.headers))

        async def pump() -> None:
            async for block in response.aiter_raw():
                await send({"type": "http.response.body", "body": block, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        async def leave() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        tasks = {asyncio.ensure_future(pump()), asyncio.ensure_future(leave())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except httpx.TransportError as error:
            # Returning without an end closes the connection: the client sees that bytes are missing.
            self.say(f"{request.method} {shown(request.target)}: the registry's answer broke off ({error})")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------------ pieces
    def _client(self, request: Incoming) -> Client:
        """Who asks: the client with its own credentials, or this machine's for one that has none."""
        given = request.headers.get("authorization")
        retries = Retries(min(_RETRIES, self.retries.count), self.retries.sleep)
        if _UPLOADS.match(request.target):
            retries = self.retries
        authorizing: AsGiven | Authentication = AsGiven(given)
        if given is None and self.credentials is not None:
            authorizing = self._login(request.target)
        return Client(self.http, self.registry.origin, authorizing, retries, self.wire)

    def _login(self, target: str) -> Authentication:
        found = _REPOSITORY.match(target)
        name = found["name"] if found else ""
        if name not in self._logins:
            scopes = [f"repository:{name}:pull,push"] if name else []
            self._logins[name] = Authentication(self.http, self.credentials, scopes, insecure=self.insecure)
        return self._logins[name]

    async def _respond(self, send: Send, status: int, headers: httpx.Headers, content: bytes) -> None:
        await send(self._start(status, headers, len(content)))
        await send({"type": "http.response.body", "body": content})

    def _start(self, status: int, headers: httpx.Headers, size: int | None = None) -> dict[str, Any]:
        """The head of an answer: what names the registry's origin names the proxy instead."""
        kept = []
        for name, value in headers.multi_items():
            if name in _HOP_BY_HOP and (name != "content-length" or size is not None):
                continue
            moved = value
            if name in ("location", "link"):
                moved = value.replace(f"{self.registry.origin}/", "/")
            kept.append((name.encode("latin-1"), moved.encode("latin-1")))
        if size is not None and status != 204:
            kept.append((b"content-length", str(size).encode()))
        return {"type": "http.response.start", "status": status, "headers": kept}


class _OutOfOrder(Failure):
    """The client's chunk is not the next one."""

    def __init__(self, session: Session) -> None:
        headers = httpx.Headers(session.headers)
        super().__init__("the chunk is not the next one", httpx.Response(416, headers=headers))


async def _send_failure(send: Send, failure: Failure) -> None:
    """Tell the client: with the registry's own answer if there is one, else as a registry would."""
    if failure.response is not None and not isinstance(failure, SessionGone):
        status, content = failure.response.status_code, failure.response.content
        kept = ("content-type", "www-authenticate", "retry-after", "location", "range", "docker-upload-uuid")
        headers: Iterable[tuple[str, str]] = [
            (name, value) for name, value in failure.response.headers.multi_items() if name in kept
        ]
    else:
        status, code = 400, "UNSUPPORTED"
        if isinstance(failure, SessionGone):
            status, code = 404, "BLOB_UPLOAD_UNKNOWN"
        elif isinstance(failure, Refused):
            status, code = 403, "DENIED"
        elif isinstance(failure, Unreachable):
            status, code = 502, "UNKNOWN"
        content = json.dumps({"errors": [{"code": code, "message": str(failure)}]}).encode()
        headers = [("content-type", "application/json")]
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    encoded.append((b"content-length", str(len(content)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": content})
