"""Requests to one registry: credentials are added, what fails for the moment is tried again."""

import json
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from itertools import count
from typing import Protocol
from urllib.parse import quote

import httpx

from registry_push.failures import Failure, Refused
from registry_push.retries import RETRIED, Retries, described

# Seconds. The registry answers a chunk when it has stored it, which may take a while.
TIMEOUT = httpx.Timeout(30, read=180, write=120)

_MAX_REDIRECTS = 5

Body = Callable[[], AsyncIterator[bytes]]


def new_http() -> httpx.AsyncClient:
    """The connections of a run. SSL_CERT_FILE and the proxy variables work as httpx has them."""
    # Nobody may compress an answer: its bytes are checked, or passed on.
    headers = {"User-Agent": "registry-push", "Accept-Encoding": "identity"}
    return httpx.AsyncClient(timeout=TIMEOUT, headers=headers, limits=httpx.Limits(max_connections=None))


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

        `url` may be relative to the registry; the credentials stay with the registry's origin. The answer was read to
        its end, unless it is to stay `unread`: then the caller closes it.
        """
        target = self.origin.join(url)
        is_ours = (target.scheme, target.netloc) == (self.origin.scheme, self.origin.netloc)
        while True:
            header = await self._authorizing.header() if is_ours else None
            response = await self._send(method, target, {**(headers or {}), **_authorization(header)}, body)
            if response.status_code == 401 and is_ours and await self._authorizing.answer(response, header):
                await response.aclose()
                continue
            if not unread:
                await _read(response)
            return response

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
                await _read(response)
            except httpx.TransportError as error:
                problem = error
            await self.retries.pause(attempt, problem, f"{method} {shown(self.origin.join(url).path)}")
        raise AssertionError("count() ends")

    async def follow(self, method: str, url: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """As `ask` for GET and HEAD, following where the registry sends one; the credentials are not taken there."""
        response = await self.ask(method, url, headers)
        for _ in range(_MAX_REDIRECTS):
            if not response.has_redirect_location:
                break
            response = await self.ask(method, response.url.join(response.headers["location"]), headers)
        return response

    async def _send(self, method: str, url: httpx.URL, headers: Mapping[str, str], body: Body | None) -> httpx.Response:
        started = time.monotonic()
        outcome = "no answer"
        try:
            request = self._http.build_request(method, url, headers=headers, content=body() if body else b"")
            response = await self._http.send(request, stream=True)
            outcome = str(response.status_code)
        except httpx.TransportError as error:
            outcome = described(error)
            raise
        else:
            return response
        finally:
            # No headers but these: they carry secrets.
            told = [f"{name}: {headers[name]}" for name in ("Content-Range", "Content-Length") if name in headers]
            took = time.monotonic() - started
            self._wire(f"{method} {shown(str(url))} {' '.join(told)} -> {outcome} in {took:.2f} s")


def refusal(response: httpx.Response, what: str) -> Failure:
    """The failure that an answer means which no retry mends, with the registry's own words."""
    words = _words(response)
    message = f"{what}: {described(response)}" + (f" ({words})" if words else "")
    return (Refused if response.status_code in (401, 403) else Failure)(message, response)


def with_digest(location: httpx.URL, digest: str) -> httpx.URL:
    """A location with the digest behind what its query has: those bytes are the registry's, and stay as they are."""
    query = location.query + (b"&" if location.query else b"") + f"digest={quote(digest)}".encode()
    return location.copy_with(query=query)


def shown(url: str) -> str:
    """A URL or path without what lets its bearer upload: most of a session's name, and the query."""
    return re.sub(r"(/blobs/uploads/[^/]{1,8})[^/]*$", r"\1...", url.partition("?")[0])


def body_of(content: bytes) -> Body:
    """A body that is in memory."""

    async def stream() -> AsyncIterator[bytes]:
        yield content

    return stream


async def _read(response: httpx.Response) -> None:
    try:
        await response.aread()
    finally:
        await response.aclose()


def _authorization(header: str | None) -> dict[str, str]:
    return {} if header is None else {"Authorization": header}


def _words(response: httpx.Response) -> str:
    """What the body's errors say; nothing when it is no registry's, as the pages of something in between are not."""
    try:
        errors = json.loads(response.content)["errors"]
        return "; ".join(str(error.get("message") or error["code"]) for error in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
