"""Whom the proxy serves: programs that ask one of its own hosts for a path below `/v2/`.

Any web page can make a browser on this machine send it requests, also under a name of the page's that leads here (DNS
rebinding). What the registry would answer to this machine is none of the page's business.
"""

import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from registry_push.failures import Failure
from registry_push.references import is_loopback

_LONGEST_TARGET = 16 * 1024  # characters: a session's state is in its query
# One slash, and visible characters without those that clients and servers read in different ways.
_TARGET = re.compile(r"(?P<path>/v2(?:/[^?#\\\x00-\x20\x7f-\U0010ffff]*)?)(?:\?[^#\x00-\x20\x7f-\U0010ffff]*)?")
# What a server may read as a way up, or as a separator, when it decodes a path once or twice; and what is not ASCII.
_ODD_ENCODINGS = re.compile(r"%(?:2[ef5]|5c|7f|[0189a-f][0-9a-f])", re.IGNORECASE)
_WAY_UP = re.compile(r"/\.{1,2}(?:;[^/]*)?(?:/|\Z)")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+?)\.?(?::(\d{1,5}))?", re.ASCII)
_HTTP_PORT = 80  # of a Host without one
# Programs send none of these. Scripts cannot leave them out or set them (the Fetch standard's forbidden names).
_BROWSER_HEADERS = ("origin", "sec-", "access-control-request-", "upgrade-insecure-requests", "dnt")
_BROWSER_AGENT = "Mozilla/"  # where a page's origin is not trusted, browsers send no Sec-Fetch-Site

# In every answer: should a browser get one after all, it runs nothing of it, and shows it to no page.
PROTECTION = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; sandbox"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class NotServed(Failure):
    """The proxy does not pass this on; `status` and `code` are what a registry answers."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class Guard:
    """The rules for a proxy that listens on the host `listen`, and has further `names`: lower case, without ports."""

    listen: str
    names: frozenset[str] = frozenset()

    def check(self, target: str, headers: Mapping[str, str], port: int) -> None:
        """Raise NotServed for a request that is not passed on; `port` is the one that it came to."""
        host = headers.get("host", "")
        if not self._is_ours(host, port):
            raise NotServed(
                421, "UNSUPPORTED", f"this is not {shown_host(host)}; registry-push proxy --host NAME gives it a name"
            )
        if headers.get("user-agent", "").startswith(_BROWSER_AGENT) or any(
            name.startswith(_BROWSER_HEADERS) for name in headers
        ):
            raise NotServed(403, "DENIED", "the proxy serves no browsers: use a client of registries")
        if not is_served(target):
            raise NotServed(404, "UNSUPPORTED", "the proxy serves paths below /v2/ alone, those of the registry's API")

    def _is_ours(self, host: str, port: int) -> bool:
        found = _HOST.fullmatch(host.lower())
        if found is None:
            return False
        name = found[1]
        if name in self.names:
            return True
        local = is_loopback(name) or name.endswith(".localhost")  # nobody can register such a name
        if is_loopback(self.listen):
            return local and int(found[2] or _HTTP_PORT) == port
        # A name that a stranger's DNS answers for is none of these.
        return local or _is_address(name) or name in (self.listen.lower(), *_machine_names())


def is_served(target: str) -> bool:
    """Whether a path with its query is below `/v2/`, whoever reads it."""
    found = _TARGET.fullmatch(target) if len(target) <= _LONGEST_TARGET else None
    if found is None:
        return False
    return _ODD_ENCODINGS.search(found["path"]) is None and _WAY_UP.search(found["path"]) is None


def shown_host(host: str) -> str:
    """A Host header for a person: it may be anything."""
    return re.sub(r"[^A-Za-z0-9.:_\[\]-]", "?", host)[:100] or "a host without a name"


def _machine_names() -> tuple[str, str]:
    name = socket.gethostname().lower()
    return name, f"{name}.local"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
