"""Requests to one registry: credentials are added, what fails for the moment is tried again."""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from itertools import count
from typing import Protocol
from urllib.parse import quote

import httpx

from registry_push.answers import location_of, read_answer, shown
from registry_push.failures import Refused, Unreachable
from registry_push.retries import RETRIED, Retries, described

# Seconds. The registry answers a chunk when it has stored it, which may take a while.
TIMEOUT = httpx.Timeout(30, read=180, write=120)

_MAX_REDIRECTS = 5
_MAX_CHALLENGES = 3  # of one request: its token had ended, somebody else's new one too, and then it is refused
# This machine, whatever HTTP_PROXY says: a proxy would see the password, and has another loopback.
_DIRECT = ("all://localhost", "all://127.0.0.1", "all://[::1]")

Body = Callable[[], AsyncIterator[bytes]]


def new_http(transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """The connections of a run. SSL_CERT_FILE and the proxy variables work as httpx has them, but for loopback."""
    return httpx.AsyncClient(
        transport=transport,
        timeout=TIMEOUT,
        # Nobody may compress an answer: its bytes are checked, or passed on.
        headers={"User-Agent": "registry-push", "Accept-Encoding": "identity"},
        # A cookie may be a session: one client of the proxy would come in with that of another.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        limits=httpx.Limits(max_connections=None),
        mounts=dict.fromkeys(_DIRECT),
    )


class Authorizing(Protocol):
    """How a client comes in."""

    async def header(self) -> str | None:
        """The Authorization header of the next request."""

    async def answer(self, response: httpx.Response, used: str | None) -> bool:
        """Do what a 401 asks for, which answered a request with the header `used`; whether to ask again."""


class Client:
    """One registry, with the credentials for what is done there."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        origin: str,
        authorizing: Authorizing,
        retries: Retries,
        wire: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.origin = httpx.URL(origin)
        self.retries = retries
        self._http = http
        self._authorizing = authorizing
        self._wire = wire

    async def once(
        self,
        method: str,
        url: str | httpx.URL,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        *,
        unread: bool = False,
    ) -> httpx.Response:
        """One request. A 401 is answered with credentials; raises httpx.TransportError.

        A `url` that is a string is a path of the registry. The credentials stay with the registry's origin, and it
        alone is asked for what it wants. The answer was read to its end, unless it is to stay `unread`: then the caller
        closes it.
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
        raise Refused(f"{target.host} takes none of the tokens that its token server gives")

    async def ask(
        self,
        method: str,
        url: str | httpx.URL,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        *,
        unread: bool = False,
    ) -> httpx.Response:
        """As `once`, again and again while the registry cannot be reached or has no time; raises Unreachable."""
        for attempt in count(1):
            problem: httpx.Response | httpx.TransportError
            try:
                problem = response = await self.once(method, url, headers, body, unread=unread)
                if response.status_code not in RETRIED:
                    return response
                problem = await read_answer(response)
            except httpx.TransportError as error:
                problem = error
            await self.retries.pause(attempt, problem, f"{method} {shown(self.url(url).path)}")
        raise AssertionError("count() ends")

    def url(self, url: str | httpx.URL) -> httpx.URL:
        """The address of a path with its query at the registry. Whatever the path is, it is there."""
        return self.origin.copy_with(raw_path=url.encode()) if isinstance(url, str) else url

    async def follow(self, method: str, url: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """As `ask` for GET and HEAD, following where the registry sends one; the credentials are not taken there."""
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
            encoded = httpx.Headers(headers, encoding="latin-1")  # as a client of the proxy may have sent them
            request = self._http.build_request(method, url, headers=encoded, content=body() if body else b"")
            response = await self._http.send(request, stream=True)
            outcome = str(response.status_code)
        except httpx.TransportError as error:
            outcome = described(error)
            raise
        except httpx.InvalidURL:
            # httpx looks where a redirect leads, although nobody follows it there.
            raise Unreachable(f"{url.host} sends us to something that is no address") from None
        else:
            return response
        finally:
            # No headers but these: they carry secrets.
            told = [f"{name}: {headers[name]}" for name in ("Content-Range", "Content-Length") if name in headers]
            took = time.monotonic() - started
            self._wire(f"{method} {shown(str(url))} {' '.join(told)} -> {outcome} in {took:.2f} s")


def with_digest(location: httpx.URL, digest: str) -> httpx.URL:
    """A location with the digest behind what its query has: those bytes are the registry's, and stay as they are."""
    query = location.query + (b"&" if location.query else b"") + f"digest={quote(digest)}".encode()
    return location.copy_with(query=query)


def body_of(content: bytes) -> Body:
    """A body that is in memory."""

    async def stream() -> AsyncIterator[bytes]:
        yield content

    return stream


def _authorization(header: str | None) -> dict[str, str]:
    return {} if header is None else {"Authorization": header}
