"""One request to an upstream registry and its answer, limited by the upstream's timeout and a number of bytes."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Self, TypeVar
from urllib.parse import urljoin, urlsplit

from registry.ports.platform import SMALL_DOCUMENT, Platform
from registry.ports.storage import Source
from registry.ports.tasks import within
from registry.ports.web import WebError, WebResponse
from registry.spec.errors import Problem, RegistryError
from registry.storage.transfer import DOCUMENT_FACTOR
from registry.upstream.upstreams import Upstream

T = TypeVar("T")

# Some registries refuse requests without a User-Agent. The length of a compressed answer cannot be verified.
HEADERS = {"User-Agent": "r2-registry", "Accept-Encoding": "identity"}


class UpstreamError(Exception):
    """An upstream failed. `reason` names the upstream and the failure, without any text that the upstream sent."""

    def __init__(
        self,
        upstream: Upstream,
        reason: str,
        *,
        problem: Problem = Problem.UPSTREAM_FAILED,
        is_denial: bool = False,
        retry_after: str | None = None,
        status: int | None = None,
    ) -> None:
        self.status = status  # HTTP status, if that was the failure
        self.reason = f"{upstream.host} {reason}"
        self.is_denial = is_denial  # the upstream may have the content, but denies access to it
        self._problem = problem
        self._retry_after = retry_after
        super().__init__(self.reason)

    @classmethod
    def too_slow(cls, upstream: Upstream, seconds: float) -> Self:
        """Return the error for an upstream that did not answer within `seconds`."""
        return cls(upstream, f"did not answer within {seconds:g} seconds", problem=Problem.UPSTREAM_SLOW)

    def told(self, unknown: Problem) -> RegistryError:
        """Return the error for the client. After a denial it is `unknown`, as if the upstream had no such content."""
        if self.is_denial:
            return RegistryError(unknown, f"{unknown.message}; {self.reason}")
        headers = None if self._retry_after is None else {"Retry-After": self._retry_after}
        return RegistryError(self._problem, self.reason, headers=headers)


@dataclass(frozen=True, slots=True)
class Answer:
    """An upstream's answer. `size` is the size of the body in bytes, None if the upstream did not declare it."""

    status: int
    size: int | None
    digest: str | None  # Docker-Content-Digest, unverified
    content_type: str | None
    content_range: str | None
    link: str | None
    body: Source


class Exchange:
    """Sends requests and reads answers. Does not follow redirects or add credentials."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    async def read(
        self, upstream: Upstream, answer: Answer, limit: int, take_room: Callable[[int], Awaitable[None]] | None = None
    ) -> bytes:
        """Read a body of at most `limit` bytes. Raises UpstreamError.

        `take_room` is called before a large body is read, with the bytes of memory that it needs.
        """
        try:
            data = await self._in_time(upstream, answer.body.read(min(SMALL_DOCUMENT, limit + 1)))
            if len(data) == SMALL_DOCUMENT:
                if take_room is not None:
                    await take_room(DOCUMENT_FACTOR * min(limit if answer.size is None else answer.size, limit))
                data += await self._in_time(upstream, answer.body.read(limit + 1 - len(data)))
        except WebError:
            raise UpstreamError(upstream, "broke its answer off") from None
        finally:
            await answer.body.cancel()
        if len(data) > limit:
            raise UpstreamError(upstream, f"sent more than {limit} bytes")
        if answer.size is not None and len(data) < answer.size:
            raise UpstreamError(upstream, "broke its answer off")
        return data

    async def _in_time(self, upstream: Upstream, work: Awaitable[T]) -> T:
        try:
            return await within(upstream.timeout, self._platform.sleep, work)
        except TimeoutError:
            raise UpstreamError.too_slow(upstream, upstream.timeout) from None

    async def fetch(
        self, upstream: Upstream, method: str, url: str, headers: Mapping[str, str], body: str = ""
    ) -> WebResponse:
        """Send a request and return the answer with its body unread. Raises UpstreamError."""
        try:
            return await self._in_time(upstream, self._platform.web.fetch(method, url, headers, body))
        except WebError:
            host = urlsplit(url).netloc
            referral = "" if host == upstream.host else f"refers to {host}, which "
            raise UpstreamError(upstream, f"{referral}cannot be reached") from None


def answer_of(response: WebResponse) -> Answer:
    """Convert an answer of the runtime."""
    length = response.header("content-length") or ""
    is_plain = (response.header("content-encoding") or "identity") == "identity"
    return Answer(
        response.status,
        int(length) if is_plain and length.isascii() and length.isdecimal() else None,
        response.header("docker-content-digest"),
        response.header("content-type"),
        response.header("content-range"),
        response.header("link"),
        response.body,
    )


def origin_of(url: str) -> str:
    """Return scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def resolve(upstream: Upstream, base: str, address: str) -> str:
    """Return the absolute URL of `address`, which the upstream sent.

    Raises UpstreamError unless it is an https URL. An http URL is allowed if the upstream's own is one.
    """
    try:
        url = urljoin(base, address)
        parts = urlsplit(url)
    except ValueError:
        raise UpstreamError(upstream, "refers to an invalid URL") from None
    if parts.scheme != "https" and not (parts.scheme == "http" and upstream.origin.startswith("http:")):
        raise UpstreamError(upstream, "refers to a URL that is not https")
    return url
