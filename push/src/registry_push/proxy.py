"""`registry-push proxy`: a local registry that forwards requests to another registry, and pushes to it in chunks."""

import asyncio
import logging
import re
import socket
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from urllib.parse import unquote

import httpx
import uvicorn

from registry_push.answers import location_of, shown
from registry_push.authentication import AsGiven, Authentication
from registry_push.client import Client, body_of
from registry_push.credentials import Credentials
from registry_push.cutting import Cutter
from registry_push.failures import Failure, Misused
from registry_push.proxy_guard import Guard
from registry_push.proxy_messages import Answers, ClientLeft, Incoming, Receive, Scope, Send, read_request
from registry_push.references import DIGEST, is_loopback
from registry_push.retries import Retries, described
from registry_push.sessions import ChunkSizes, Session
from registry_push.token_servers import TokenServers
from registry_push.untrusted_json import LARGEST_DOCUMENT

_UPLOADS = re.compile(r"/v2/(?P<name>[^?]+)/blobs/uploads/[^/?]*", re.ASCII)
_REPOSITORY = re.compile(r"/v2/(?P<name>[^?]+)/(?:blobs|manifests|tags|referrers)/", re.ASCII)
_RETRIES = 3  # of requests other than uploads: clients have timeouts and retries of their own
_KNOWN_SESSIONS = 1000
_KNOWN_LOGINS = 1000  # repositories; bounded since a client may name any
_CLOSING_SECONDS = 5


@dataclass(slots=True)
class Proxy:
    """An ASGI application in front of one registry."""

    http: httpx.AsyncClient
    guard: Guard
    token_servers: TokenServers
    credentials: Credentials | None
    sizes: ChunkSizes
    retries: Retries
    say: Callable[[str], None]
    wire: Callable[[str], None]
    answered: set[str] = field(default_factory=set)  # hosts that have answered, see Client
    # The offsets of recent sessions by location. For any other session the registry is asked first.
    _offsets: OrderedDict[str, int] = field(default_factory=OrderedDict)
    _logins: OrderedDict[str, Authentication] = field(default_factory=OrderedDict)
    _answers: Answers = field(init=False)

    def __post_init__(self) -> None:
        """Make the writer of responses, which replaces the registry's address by the proxy's."""
        self._answers = Answers(self.token_servers.registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = read_request(scope, receive)
        line = f"{request.method} {shown(request.target)}"
        try:
            self.guard.check(request.target, request.headers, scope["server"][1])
            await self._answer(request, send)
        except ClientLeft:
            self.say(f"{line}: the client left")
        except Failure as failure:
            self.say(f"{line}: {failure}")
            await self._answers.send_failure(send, failure)

    async def _answer(self, request: Incoming, send: Send) -> None:
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

    async def check(self) -> None:
        """Check that the registry answers, before a client needs it; raises Unreachable or Misused."""
        retries = replace(self.retries, count=min(_RETRIES, self.retries.count))
        origin = self.token_servers.registry.origin
        await Client(self.http, origin, AsGiven(None), retries, self.wire, self.answered).check()

    async def serve(self, port: int) -> None:
        """Serve on the guard's host until a signal arrives; raises OSError when the address is in use."""
        host, origin = self.guard.listen, self.token_servers.registry.origin
        if self.credentials is not None and not (is_loopback(host) or self.token_servers.insecure):
            raise Misused(
                f"a client that reaches {host} could push with your credentials: listen on 127.0.0.1 or pass --insecure"
            )
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # `say` tells what happens
        config = uvicorn.Config(
            self,
            log_config=None,
            access_log=False,
            lifespan="off",
            interface="asgi3",
            http="h11",  # also if others are installed: the guard's checks rely on how h11 parses a target
            proxy_headers=False,
            ws="none",
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=_CLOSING_SECONDS,
        )
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family) as listener:
            netloc = f"[{host}]" if ":" in host else host
            self.say(f"listening on http://{netloc}:{listener.getsockname()[1]}, passing on to {origin}")
            await uvicorn.Server(config).serve(sockets=[listener])

    # ------------------------------------------------------------------ uploads
    async def _begin(self, request: Incoming, send: Send) -> None:
        response = await self._client(request).ask("POST", request.target, request.passed_on())
        if response.status_code == 202 and "location" in response.headers:
            self.sizes.learn(response.headers)
            self._remember(location_of(response), 0)
        await self._answers.send(send, response.status_code, response.headers, response.content)

    async def _append(self, request: Incoming, send: Send) -> None:
        cutter = await self._cutter(request, request.target)
        await cutter.append(request.body())
        session = cutter.session
        self._remember(session.location, session.offset)
        headers = httpx.Headers(session.headers)
        headers["Location"] = str(session.location)
        headers["Range"] = f"0-{max(0, session.offset - 1)}"
        await self._answers.send(send, 202, headers, b"")

    async def _close(self, request: Incoming, name: str, send: Send) -> None:
        path, _, query = request.target.partition("?")
        pairs = [pair for pair in query.split("&") if pair]
        digests = [unquote(pair.partition("=")[2]) for pair in pairs if pair.startswith("digest=")]
        if len(digests) != 1 or DIGEST.fullmatch(digests[0]) is None:
            await self._pass_on(request, send)
            return
        rest = "&".join(pair for pair in pairs if not pair.startswith("digest="))
        cutter = await self._cutter(request, path + (f"?{rest}" if rest else ""))
        await self._finish(cutter, request, name, digests[0], send)

    async def _push_at_once(self, request: Incoming, name: str, send: Send) -> None:
        """Turn a POST with a whole blob into an upload session."""
        digests = httpx.QueryParams(request.target.partition("?")[2]).get_list("digest")
        if len(digests) != 1 or DIGEST.fullmatch(digests[0]) is None:
            await self._pass_on(request, send)
            return
        client = self._client(request)
        response = await client.ask("POST", f"/v2/{name}/blobs/uploads/")
        if response.status_code != 202 or "location" not in response.headers:
            await self._answers.send(send, response.status_code, response.headers, response.content)
            return
        self.sizes.learn(response.headers)
        session = Session(client, location_of(response), self.sizes)
        await self._finish(Cutter(client, session, self.sizes), request, name, digests[0], send)

    async def _finish(self, cutter: Cutter, request: Incoming, name: str, digest: str, send: Send) -> None:
        response = await cutter.close(request.body(), digest, f"/v2/{name}/blobs/{digest}")
        await self._answers.send(send, response.status_code, response.headers, response.content)

    async def _cutter(self, request: Incoming, target: str) -> Cutter:
        client = self._client(request)
        location = client.url(target)
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
            if len(content) > LARGEST_DOCUMENT:
                raise Failure(
                    f"the request body has more than {LARGEST_DOCUMENT} bytes, which only uploads of blobs may have"
                )

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
        """Pass a response on while it arrives. When one side disconnects, close the other's connection."""
        await send(self._answers.head(response.status_code, response.headers))

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
            # Returning before the end of the body closes the connection: the client notices that bytes are missing.
            self.say(
                f"{request.method} {shown(request.target)}: the registry's response broke off ({described(error)})"
            )
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------------ pieces
    def _client(self, request: Incoming) -> Client:
        """A client with the request's own credentials, or with this machine's when the request has none."""
        given = request.headers.get("authorization")
        retries = replace(self.retries, count=min(_RETRIES, self.retries.count))
        if _UPLOADS.match(request.target):
            retries = self.retries
        authorizing: AsGiven | Authentication = AsGiven(given)
        if given is None and self.credentials is not None:
            authorizing = self._login(request.target)
        return Client(self.http, self.token_servers.registry.origin, authorizing, retries, self.wire, self.answered)

    def _login(self, target: str) -> Authentication:
        found = _REPOSITORY.match(target)
        name = found["name"] if found else ""
        if name not in self._logins:
            scopes = [f"repository:{name}:pull,push"] if name else []
            self._logins[name] = Authentication(self.http, self.credentials, scopes, self.token_servers)
            if len(self._logins) > _KNOWN_LOGINS:
                self._logins.popitem(last=False)
        return self._logins[name]


class _OutOfOrder(Failure):
    """A client's chunk does not begin at the session's offset."""

    def __init__(self, session: Session) -> None:
        headers = httpx.Headers(session.headers)
        message = f"the chunk does not begin at the session's offset {session.offset}"
        super().__init__(message, httpx.Response(416, headers=headers))
