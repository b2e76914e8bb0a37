"""The record of a request: facts for the log and the metrics, which any code notes while it answers the request.

A context variable holds it: each request, with the tasks it starts, has a context of its own.
"""

import re
from contextvars import ContextVar
from dataclasses import dataclass

from registry.spec.endpoints import Endpoint, InRepository

_RAY = re.compile(r"[0-9a-f]{16}", re.ASCII)


@dataclass(slots=True)
class RequestRecord:
    """Facts about one request. `id` is in the answer and in every log line of the request."""

    id: str
    endpoint: Endpoint | None = None  # None: the request line could not be parsed
    account: str | None = None  # the caller's, or the existing account whose secret was wrong
    reason: str | None = None  # why it failed: the error message for the client
    class_a: int = 0  # R2 calls by price class
    class_b: int = 0
    free: int = 0

    @property
    def kind(self) -> str | None:
        """The endpoint's name."""
        return None if self.endpoint is None else type(self.endpoint).__name__

    @property
    def repository(self) -> str | None:
        """The repository that the request is for."""
        return self.endpoint.name if isinstance(self.endpoint, InRepository) else None


current: ContextVar[RequestRecord | None] = ContextVar("request record", default=None)


def note_account(name: str) -> None:
    """Note the caller's account, in endpoints that authenticate the caller themselves."""
    if (record := current.get()) is not None:
        record.account = name or None


def ray_id(header: str | None) -> str | None:
    """Cloudflare's id of a request (CF-Ray) without the data center, as in Cloudflare's logs; None if malformed."""
    ray = (header or "").partition("-")[0]
    return ray if _RAY.fullmatch(ray) else None
