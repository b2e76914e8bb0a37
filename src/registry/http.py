"""One request and one response as the core sees them."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from registry.callers import Caller
from registry.storage import Source

JSON = "application/json"
OCTETS = "application/octet-stream"


class Body(Source, Protocol):
    """A request's body."""

    @property
    def taken(self) -> int:
        """Bytes of it that were read, or handed over to be read."""
        ...

    async def discard(self) -> None:
        """Read what is left and forget it, without a turn of the loop for each piece. Never raises."""
        ...


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
