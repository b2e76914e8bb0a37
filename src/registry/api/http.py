"""HTTP requests and responses, independent of the Workers runtime."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from registry.access.callers import Caller
from registry.ports.storage import Body, Source
from registry.spec.media_types import JSON


@dataclass(frozen=True, slots=True)
class Request:
    """A request. `path` and `query` are percent-encoded; `header` takes a name in lower case.

    `origin` is the scheme, host and port by which the client reached the registry. `keep_running` takes work that
    continues while the body of the answer is sent, up to 30 seconds after the client disconnects (`waitUntil`).
    `caller` is set after authentication.
    """

    method: str
    origin: str
    path: str
    query: str
    header: Callable[[str], str | None]
    body: Body
    keep_running: Callable[[Awaitable[None]], object]
    caller: Caller | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """A response. A Source as its body streams to the client unread."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | bytes | Source | None = None


def json_response(status: int, value: object, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with `value` as JSON."""
    return Response(status, {"Content-Type": JSON, **(headers or {})}, json.dumps(value))
