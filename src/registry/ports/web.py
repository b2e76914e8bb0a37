"""The port to the web: HTTP requests to other servers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from registry.ports.storage import Source


class WebError(Exception):
    """The server cannot be reached, or its answer breaks off."""


@dataclass(frozen=True, slots=True)
class WebResponse:
    """An answer. `header` takes a name in lower case. The caller must read the body to its end, or cancel it."""

    status: int
    header: Callable[[str], str | None]
    body: Source


class Web(Protocol):
    """Sends requests to other servers. It does not follow redirects, but returns them like any other answer."""

    async def fetch(self, method: str, url: str, headers: Mapping[str, str], body: str = "") -> WebResponse:
        """Send a request; returns when the answer begins. Raises WebError, and so does reading the body.

        There is no timeout: to stop waiting, cancel the task.
        """
        ...
