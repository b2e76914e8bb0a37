"""The port to the web: other servers, asked over HTTP."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from registry.storage import Source


class WebError(Exception):
    """No answer: the server cannot be reached, or took too long."""


@dataclass(frozen=True, slots=True)
class WebResponse:
    """An answer. `header` takes a name in lower case. A body that is not read must be cancelled."""

    status: int
    header: Callable[[str], str | None]
    body: Source


class Web(Protocol):
    """Asks other servers. Redirects are not followed: they are answers like any other."""

    async def get(self, url: str, headers: Mapping[str, str], seconds: float) -> WebResponse:
        """GET. Raises WebError; so does reading the body after `seconds` from the start of the request."""
        ...
