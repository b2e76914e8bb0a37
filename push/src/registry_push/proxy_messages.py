"""The proxy's requests and responses, from and to ASGI messages."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import httpx

from registry_push.failures import Failure, Refused, SessionGone, Unreachable
from registry_push.proxy_guard import PROTECTION, NotServed, is_served
from registry_push.references import Registry

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# Headers of a connection, not of a message (RFC 9110, 7.6.1), and `host` and `content-length`, which are rewritten.
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding"}
    | {"upgrade", "host", "content-length", "expect"}
)
# Client adds the credentials itself, for the registry alone. Cookies count as credentials; registry clients use none.
_CREDENTIALS = frozenset({"authorization", "cookie", "set-cookie"})
_PROTECTION = frozenset(name.decode() for name, _ in PROTECTION)
_CORS = "access-control-"  # no web page may read through the proxy, even if the registry allows it
# The headers that pass on when a registry's response is the reason of a failure.
_OF_FAILURES = frozenset({"content-type", "www-authenticate", "retry-after", "location", "range", "docker-upload-uuid"})


class ClientLeft(Exception):
    """The client closed the connection before the end of its request."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request to the proxy."""

    method: str
    target: str  # path and query, as received
    headers: Mapping[str, str]
    receive: Receive

    @property
    def has_body(self) -> bool:
        """Whether the headers announce a body, which may still be empty."""
        return "transfer-encoding" in self.headers or self.headers.get("content-length", "0") != "0"

    def passed_on(self) -> dict[str, str]:
        """The headers to pass on to the registry, without credentials."""
        return {
            name: value for name, value in self.headers.items() if name not in _HOP_BY_HOP and name not in _CREDENTIALS
        }

    async def body(self) -> AsyncIterator[bytes]:
        """The body; raises ClientLeft when the connection breaks off."""
        more = self.has_body
        while more:
            event = await self.receive()
            if event["type"] == "http.disconnect":
                raise ClientLeft
            if event.get("body"):
                yield event["body"]
            more = event.get("more_body", False)


def read_request(scope: Scope, receive: Receive) -> Incoming:
    """The request of an ASGI scope."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    target = scope["raw_path"].decode("latin-1")
    if scope["query_string"]:
        target += "?" + scope["query_string"].decode("latin-1")
    return Incoming(scope["method"], target, headers, receive)


@dataclass(frozen=True, slots=True)
class Answers:
    """Writes responses, and replaces the registry's address in them by the proxy's."""

    registry: Registry

    def head(self, status: int, headers: httpx.Headers, size: int | None = None) -> dict[str, Any]:
        """The start of a response. `size` is that of its body in bytes; None keeps the registry's Content-Length."""
        kept: list[tuple[bytes, bytes]] = [*PROTECTION]
        for raw_name, value in headers.raw:
            name = raw_name.decode("latin-1").lower()
            is_size = name == "content-length" and size is None
            if name in _HOP_BY_HOP and not is_size:
                continue
            if name in _CREDENTIALS or name in _PROTECTION or name.startswith(_CORS):
                continue
            kept.append((name.encode("latin-1"), self._moved(name, value)))
        # A server may answer with any three digits, and uvicorn has no reason phrase for some.
        known = status if 200 <= status <= 599 else 502
        if size is not None and known != 204:
            kept.append((b"content-length", str(size).encode()))
        return {"type": "http.response.start", "status": known, "headers": kept}

    async def send(self, send: Send, status: int, headers: httpx.Headers, content: bytes) -> None:
        """Send a whole response."""
        await send(self.head(status, headers, len(content)))
        await send({"type": "http.response.body", "body": content})

    async def send_failure(self, send: Send, failure: Failure) -> None:
        """Answer with the registry's response if the failure has one, else with an error of the specification."""
        response = failure.response
        if response is not None and not isinstance(failure, SessionGone):
            headers = httpx.Headers([pair for pair in response.headers.raw if _is_of_failures(pair)])
            await self.send(send, response.status_code, headers, response.content)
            return
        status, code = _status_and_code(failure)
        content = json.dumps({"errors": [{"code": code, "message": str(failure)}]}).encode()
        await self.send(send, status, httpx.Headers({"Content-Type": "application/json"}), content)

    def _moved(self, name: str, value: bytes) -> bytes:
        if name == "link":
            return value.replace(f"<{self.registry.origin}/".encode(), b"</")
        if name == "location" and (value.startswith(b"/") or b"://" in value):
            return self._location(value)
        return value

    def _location(self, value: bytes) -> bytes:
        """A Location for the client: a path at the proxy if the proxy serves it, else the registry's absolute URL."""
        origin = httpx.URL(self.registry.origin)
        try:
            url = origin.join(value.decode("latin-1"))
        except httpx.InvalidURL:
            return value
        is_ours = (url.scheme, url.netloc) == (origin.scheme, origin.netloc)
        if is_ours and is_served(url.raw_path.decode()):
            return url.raw_path
        return str(url).encode()


def _is_of_failures(pair: tuple[bytes, bytes]) -> bool:
    return pair[0].decode("latin-1").lower() in _OF_FAILURES


def _status_and_code(failure: Failure) -> tuple[int, str]:
    """The HTTP status and the specification's error code for a failure."""
    match failure:
        case NotServed():
            return failure.status, failure.code
        case SessionGone():
            return 404, "BLOB_UPLOAD_UNKNOWN"
        case Refused():
            return 403, "DENIED"
        case Unreachable():
            return 502, "UNKNOWN"
    return 400, "UNSUPPORTED"
