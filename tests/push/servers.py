"""Servers that `registry-push` must not trust, with a record of the requests that they got."""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from registry_push.proxy import Proxy
from tests.push.harness import CREDENTIALS, Unread

SECRET = CREDENTIALS.password
BASIC = "Basic " + base64.b64encode(f"{CREDENTIALS.username}:{SECRET}".encode()).decode()

Answering = Callable[[httpx.Request], httpx.Response]


@dataclass(slots=True)
class Servers(httpx.AsyncBaseTransport):
    """All hosts, by name and port. A host without an answer of its own answers 404."""

    hosts: Mapping[str, Answering] = field(default_factory=dict)
    seen: list[httpx.Request] = field(default_factory=list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Record and answer a request, after reading its body."""
        await request.aread()
        self.seen.append(request)
        answering = self.hosts.get(request.url.netloc.decode())
        answer = httpx.Response(404) if answering is None else answering(request)
        return httpx.Response(answer.status_code, headers=answer.headers.raw, stream=Unread(answer.content))

    def told(self) -> set[str]:
        """The hosts that got a password or an identity token."""
        return {
            each.url.netloc.decode()
            for each in self.seen
            if each.headers.get("authorization") == BASIC or b"refresh_token" in each.content
        }

    def asked(self) -> set[str]:
        """The hosts that got any request."""
        return {each.url.netloc.decode() for each in self.seen}


def challenging(challenge: str, token: str = "the-token") -> Answering:  # noqa: S107 - of a test
    """A registry that accepts one token; other paths of its host answer 404."""

    def answer(request: httpx.Request) -> httpx.Response:
        if not request.url.path.startswith("/v2/"):
            return httpx.Response(404)
        if request.headers.get("authorization") == f"Bearer {token}":
            return httpx.Response(200)
        return httpx.Response(401, headers={"WWW-Authenticate": challenge})

    return answer


@dataclass(frozen=True, slots=True)
class Reply:
    """A response of the proxy."""

    status: int
    headers: httpx.Headers
    body: bytes


async def ask_proxy(
    proxy: Proxy,
    target: str,
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    host: str | None = "localhost:5000",
    body: bytes = b"",
) -> Reply:
    """Send a request to the proxy exactly as given: no HTTP client normalizes it."""
    given = [] if host is None else [("host", host)]
    given += list((headers or {}).items())
    if body:
        given.append(("content-length", str(len(body))))
    path, _, query = target.encode("latin-1").partition(b"?")
    scope = {
        "type": "http",
        "method": method,
        "raw_path": path,
        "query_string": query,
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in given],
        "server": ("127.0.0.1", 5000),
    }
    sent: list[MutableMapping[str, Any]] = []
    events = iter([{"type": "http.request", "body": body}])

    async def receive() -> MutableMapping[str, Any]:
        return next(events, {"type": "http.disconnect"}) if body else await _never()

    async def send(event: MutableMapping[str, Any]) -> None:
        sent.append(event)

    await proxy(scope, receive, send)
    content = b"".join(each.get("body", b"") for each in sent[1:])
    return Reply(sent[0]["status"], httpx.Headers(sent[0]["headers"]), content)


def _never() -> Awaitable[MutableMapping[str, Any]]:
    """Wait for ever, as for a client that stays connected and sends nothing."""
    return asyncio.get_running_loop().create_future()
