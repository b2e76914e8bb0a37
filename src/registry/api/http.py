"""One request and one response as the core sees them."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from registry.access.callers import Caller
from registry.ports.storage import Body, Source
from registry.spec.media_types import JSON


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came. `path` and `query` are percent-encoded; `header` takes a name in lower case.

    `origin` is how the client knows us: scheme, host and port. `keep_running` takes what goes on beside the answer's
    body, up to 30 seconds longer than the client listens (`waitUntil`). `caller` is filled in when it is known.
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
    """An answer. A Source as body is passed through untouched."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | bytes | Source | None = None


def json_response(status: int, value: object, headers: Mapping[str, str] | None = None) -> Response:
    """`value` as JSON."""
    return Response(status, {"Content-Type": JSON, **(headers or {})}, json.dumps(value))
