"""Decides which requests the proxy serves: those of programs, to one of its own hosts, for a path below `/v2/`.

Any web page can make a browser on this machine send requests to the proxy, also under a domain of the page's owner
that resolves to this machine (DNS rebinding). The page must not read the registry's responses.
"""

import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from registry_push.failures import Failure
from registry_push.references import is_loopback

_LONGEST_TARGET = 16 * 1024  # characters: the query may hold the state of an upload session
# One leading slash, then visible characters, except those that clients and servers interpret differently.
_TARGET = re.compile(r"(?P<path>/v2(?:/[^?#\\\x00-\x20\x7f-\U0010ffff]*)?)(?:\?[^#\x00-\x20\x7f-\U0010ffff]*)?")
# Encodings that a server may take for `..` or a separator when it decodes a path once or twice; and non-ASCII ones.
_ODD_ENCODINGS = re.compile(r"%(?:2[ef5]|5c|7f|[0189a-f][0-9a-f])", re.IGNORECASE)
_WAY_UP = re.compile(r"/\.{1,2}(?:;[^/]*)?(?:/|\Z)")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+?)\.?(?::(\d{1,5}))?", re.ASCII)
_HTTP_PORT = 80  # for a Host header without a port
# Registry clients send none of these. Scripts cannot omit or set them (the Fetch standard's forbidden headers).
_BROWSER_HEADERS = ("origin", "sec-", "access-control-request-", "upgrade-insecure-requests", "dnt")
_BROWSER_AGENT = "Mozilla/"  # needed since browsers send no Sec-Fetch-Site to an origin without HTTPS

# Headers of every response: a browser that gets one after all runs nothing of it, and shows it to no page.
PROTECTION = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; sandbox"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class NotServed(Failure):
    """The proxy refuses the request, with this HTTP status and error code of the specification."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class Guard:
    """The rules for a proxy that listens on the host `listen` and has further host `names` (lower case, no ports)."""

    listen: str
    names: frozenset[str] = frozenset()

    def check(self, target: str, headers: Mapping[str, str], port: int) -> None:
        """Raise NotServed for a request that the proxy refuses; `port` is the proxy's port."""
        host = headers.get("host", "")
        if not self._is_ours(host, port):
            raise NotServed(
                421,
                "UNSUPPORTED",
                f"the proxy does not serve the host {shown_host(host)}; to allow it, start the proxy with --host NAME",
            )
        if headers.get("user-agent", "").startswith(_BROWSER_AGENT) or any(
            name.startswith(_BROWSER_HEADERS) for name in headers
        ):
            raise NotServed(403, "DENIED", "the proxy serves no browsers: use a registry client")
        if not is_served(target):
            raise NotServed(404, "UNSUPPORTED", "the proxy serves only the registry's API, the paths below /v2/")

    def _is_ours(self, host: str, port: int) -> bool:
        found = _HOST.fullmatch(host.lower())
        if found is None:
            return False
        name = found[1]
        if name in self.names:
            return True
        local = is_loopback(name) or name.endswith(".localhost")  # nobody can register such a domain
        if is_loopback(self.listen):
            return local and int(found[2] or _HTTP_PORT) == port
        # DNS rebinding needs a domain of the attacker, which is none of these.
        return local or _is_address(name) or name in (self.listen.lower(), *_machine_names())


def is_served(target: str) -> bool:
    """Whether a path with its query is below `/v2/`, however a server interprets it."""
    found = _TARGET.fullmatch(target) if len(target) <= _LONGEST_TARGET else None
    if found is None:
        return False
    return _ODD_ENCODINGS.search(found["path"]) is None and _WAY_UP.search(found["path"]) is None


def shown_host(host: str) -> str:
    """A Host header that is safe to print: a client may send any text."""
    return re.sub(r"[^A-Za-z0-9.:_\[\]-]", "?", host)[:100] or "(empty)"


def _machine_names() -> tuple[str, str]:
    name = socket.gethostname().lower()
    return name, f"{name}.local"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
