"""What is noted of a request while it is answered, wherever in the code that is.

A context variable leads there: each request, with the tasks it starts, has a context of its own.
"""

import re
from contextvars import ContextVar
from dataclasses import dataclass

from registry.spec.endpoints import Endpoint, InRepository

_RAY = re.compile(r"[0-9a-f]{16}", re.ASCII)


@dataclass(slots=True)
class RequestRecord:
    """`id` is what the client is told and every line of the log carries."""

    id: str
    endpoint: Endpoint | None = None  # None: the request line could not be parsed
    account: str | None = None  # who calls, or the existing account whose secret was wrong
    reason: str | None = None  # why it failed: the sentence that the client got
    class_a: int = 0  # R2 calls by price class
    class_b: int = 0
    free: int = 0

    @property
    def kind(self) -> str | None:
        """The endpoint's name."""
        return None if self.endpoint is None else type(self.endpoint).__name__

    @property
    def repository(self) -> str | None:
        """The repository that is asked for."""
        return self.endpoint.name if isinstance(self.endpoint, InRepository) else None


current: ContextVar[RequestRecord | None] = ContextVar("request record", default=None)


def note_account(name: str) -> None:
    """Who asks: for endpoints that find it out themselves."""
    if (record := current.get()) is not None:
        record.account = name or None


def ray_id(header: str | None) -> str | None:
    """Cloudflare's id of a request, without the place: its own logs have it, too. None for what is none."""
    ray = (header or "").partition("-")[0]
    return ray if _RAY.fullmatch(ray) else None
