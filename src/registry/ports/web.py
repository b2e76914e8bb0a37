"""The port to the web: other servers, asked over HTTP."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from registry.ports.storage import Source


class WebError(Exception):
    """The server cannot be reached, or its answer broke off."""


@dataclass(frozen=True, slots=True)
class WebResponse:
    """An answer. `header` takes a name in lower case. A body that is not read must be cancelled."""

    status: int
    header: Callable[[str], str | None]
    body: Source


class Web(Protocol):
    """Asks other servers. Redirects are not followed: they are answers like any other."""

    async def fetch(self, method: str, url: str, headers: Mapping[str, str], body: str = "") -> WebResponse:
        """Ask; returns when the answer begins. Raises WebError, and so does reading the body.

        There is no time limit: who cancels this gives the request up.
        """
        ...
