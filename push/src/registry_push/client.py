"""Requests to one registry: adds credentials, and retries temporary failures."""

import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from http.cookiejar import CookieJar, DefaultCookiePolicy
from itertools import count
from typing import Protocol
from urllib.parse import quote
from urllib.request import getproxies

import httpx

from registry_push.answers import location_of, read_answer, shown
from registry_push.failures import Misused, Refused, Unreachable
from registry_push.retries import RETRIED, Retries, described

# Seconds. The registry answers a chunk only after it has stored it, which may take a while.
TIMEOUT = httpx.Timeout(30, read=180, write=120)

_MAX_REDIRECTS = 5
# Tries of one request: with an expired token, with another request's token that expired too, with a new one.
_MAX_CHALLENGES = 3
# Retries of a connection to a host that has never answered: it is probably the wrong host, or not running.
_FIRST_CONTACT_RETRIES = 2
_UNKNOWN_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
# Loopback never goes through HTTP_PROXY: a proxy would see the password, and its loopback is another machine's.
_DIRECT = ("all://localhost", "all://127.0.0.1", "all://[::1]")

Body = Callable[[], AsyncIterator[bytes]]


def new_http(transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """The connections of a run. httpx's environment variables apply (SSL_CERT_FILE; HTTP_PROXY except for loopback)."""
    return httpx.AsyncClient(
        transport=transport,
        timeout=TIMEOUT,
        # Responses must not be compressed: their bytes are hashed, or passed on as they are.
        headers={"User-Agent": "registry-push", "Accept-Encoding": "identity"},
        # A cookie may hold a login: one client of the proxy would use that of another.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        limits=httpx.Limits(max_connections=None),
        mounts=dict.fromkeys(_DIRECT),
    )


class Authorizing(Protocol):
    """How a client authenticates."""

    async def header(self) -> str | None:
        """The Authorization header of the next request."""

    async def answer(self, response: httpx.Response, used: str | None) -> bool:
        """React to a 401 on a request with the header `used`; returns whether to send the request again."""


class Client:
    """Sends requests to one registry, with credentials."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        origin: str,
        authorizing: Authorizing,
        retries: Retries,
        wire: Callable[[str], None] = lambda line: None,
        answered: set[str] | None = None,
    ) -> None:
        """Create it; `answered` collects the hosts that have answered, also for other clients that share the set."""
        self.origin = httpx.URL(origin)
        self.retries = retries
        self._http = http
        self._authorizing = authorizing
        self._wire = wire
        self._answered = set() if answered is None else answered

    async def once(
        self,
        method: str,
        url: str | httpx.URL,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        *,
        unread: bool = False,
    ) -> httpx.Response:
        """Send a request, and again with credentials after a 401; raises httpx.TransportError.

        A `url` that is a string is a path of the registry. Credentials go only to the registry's origin, and only its
        401s are answered. The response is read to its end, except when `unread`: then the caller closes it.
        """
        target = self.url(url)
        is_ours = (target.scheme, target.netloc) == (self.origin.scheme, self.origin.netloc)
        sent = dict(headers or {})
        if not unread:
            sent["accept-encoding"] = "identity"
        for _ in range(_MAX_CHALLENGES):
            header = await self._authorizing.header() if is_ours else None
            response = await self._send(method, target, {**sent, **_authorization(header)}, body)
            if response.status_code != 401 or not is_ours or not await self._authorizing.answer(response, header):
                return response if unread else await read_answer(response)
            await response.aclose()
        raise Refused(f"{target.host} refuses the tokens that its own token server issues; ask its operator")

    async def ask(
        self,
        method: str,
        url: str | httpx.URL,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        *,
        unread: bool = False,
    ) -> httpx.Response:
        """As `once`, with retries after transport errors and the statuses in RETRIED; raises Unreachable at last.

        A host that has never answered gets fewer retries, and none if DNS does not know its name.
        """
        target = self.url(url)
        for attempt in count(1):
            retries = self.retries
            problem: httpx.Response | httpx.TransportError
            try:
                problem = response = await self.once(method, url, headers, body, unread=unread)
                if response.status_code not in RETRIED:
                    return response
                problem = await read_answer(response)
            except httpx.TransportError as error:
                problem = error
                if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) and target.host not in self._answered:
                    if _is_unknown_name(error):
                        raise _unknown(target.host) from None
                    retries = replace(retries, count=min(retries.count, _FIRST_CONTACT_RETRIES))
            await retries.pause(attempt, problem, f"{method} {shown(str(target))}")
        raise AssertionError("count() ends")

    async def check(self) -> httpx.Response:
        """The response to the specification's check for a registry; raises Unreachable, or Misused for another server.

        The status may be 401 or 403.
        """
        response = await self.ask("GET", "/v2/")
        if response.status_code == 404:
            raise Misused(
                f"{self.origin.netloc.decode()} is not a registry: GET /v2/ answered 404; check the host's name"
            )
        return response

    def url(self, url: str | httpx.URL) -> httpx.URL:
        """The URL of a path with its query. No path can lead to another host than the registry's."""
        return self.origin.copy_with(raw_path=url.encode()) if isinstance(url, str) else url

    async def follow(self, method: str, url: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """As `ask` for GET and HEAD, and follow redirects; other origins do not get the credentials."""
        response = await self.ask(method, url, headers)
        for _ in range(_MAX_REDIRECTS):
            if not response.has_redirect_location:
                break
            response = await self.ask(method, location_of(response), headers)
        return response

    async def _send(self, method: str, url: httpx.URL, headers: Mapping[str, str], body: Body | None) -> httpx.Response:
        started = time.monotonic()
        outcome = "no answer"
        try:
            encoded = httpx.Headers(headers, encoding="latin-1")  # clients of the proxy may send any bytes
            request = self._http.build_request(method, url, headers=encoded, content=body() if body else b"")
            response = await self._http.send(request, stream=True)
            outcome = str(response.status_code)
            self._answered.add(url.host)
        except httpx.TransportError as error:
            outcome = described(error)
            raise
        except httpx.InvalidURL:
            # httpx parses the target of every redirect, also when it does not follow it.
            raise Unreachable(f"{url.host} answered with a location that is not a valid URL") from None
        else:
            return response
        finally:
            # Only these headers: others may carry secrets.
            told = [f"{name}: {headers[name]}" for name in ("Content-Range", "Content-Length") if name in headers]
            took = time.monotonic() - started
            self._wire(f"{method} {shown(str(url))} {' '.join(told)} -> {outcome} in {took:.2f} s")


def with_digest(location: httpx.URL, digest: str) -> httpx.URL:
    """A session's location with the digest appended to its query. The registry's own query stays byte for byte."""
    query = location.query + (b"&" if location.query else b"") + f"digest={quote(digest)}".encode()
    return location.copy_with(query=query)


def body_of(content: bytes) -> Body:
    """A request body that is in memory."""

    async def stream() -> AsyncIterator[bytes]:
        yield content

    return stream


def _is_unknown_name(error: BaseException | None) -> bool:
    """Whether an error came from DNS, which has no such name. A DNS server that does not answer gives another one."""
    while error is not None:
        if isinstance(error, socket.gaierror) and error.errno in _UNKNOWN_NAME:
            return True
        error = error.__cause__ or error.__context__
    return False


def _unknown(host: str) -> Unreachable:
    proxies = ", or that of the proxy in HTTP_PROXY or HTTPS_PROXY" if getproxies() else ""
    return Unreachable(f"there is no host {host}: DNS does not know this name{proxies}; check its spelling")


def _authorization(header: str | None) -> dict[str, str]:
    return {} if header is None else {"Authorization": header}
