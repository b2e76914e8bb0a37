"""One request to another registry and its answer: within the upstream's time, and no more bytes than asked for."""

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

# Some registries refuse clients that do not name themselves. A compressed answer has no length that could be checked.
HEADERS = {"User-Agent": "r2-registry", "Accept-Encoding": "identity"}


class UpstreamError(Exception):
    """An upstream did not answer as it should. `reason` names it and says why, and repeats nothing that it sent."""

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
        self.status = status  # of its answer, where that was the problem
        self.reason = f"{upstream.host} {reason}"
        self.is_denial = is_denial  # it may have the thing, but not for us
        self._problem = problem
        self._retry_after = retry_after
        super().__init__(self.reason)

    @classmethod
    def too_slow(cls, upstream: Upstream, seconds: float) -> Self:
        """No answer in time."""
        return cls(upstream, f"did not answer within {seconds:g} seconds", problem=Problem.UPSTREAM_SLOW)

    def told(self, unknown: Problem) -> RegistryError:
        """The same for the client, for whom `unknown` is what is not there."""
        if self.is_denial:
            return RegistryError(unknown, f"{unknown.message}; {self.reason}")
        headers = None if self._retry_after is None else {"Retry-After": self._retry_after}
        return RegistryError(self._problem, self.reason, headers=headers)


@dataclass(frozen=True, slots=True)
class Answer:
    """An upstream's answer. `size` is of the body in bytes, None when it did not say."""

    status: int
    size: int | None
    digest: str | None  # as it says
    content_type: str | None
    content_range: str | None
    link: str | None
    body: Source


class Exchange:
    """Sends requests and reads answers. It follows no redirect and knows no credentials."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    async def read(
        self, upstream: Upstream, answer: Answer, limit: int, take_room: Callable[[int], Awaitable[None]] | None = None
    ) -> bytes:
        """A body of at most `limit` bytes; `take_room` gets the bytes that a large one takes. Raises UpstreamError."""
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
        """The head of an answer. Raises UpstreamError."""
        try:
            return await self._in_time(upstream, self._platform.web.fetch(method, url, headers, body))
        except WebError:
            host = urlsplit(url).netloc
            of_whom = "" if host == upstream.host else f": nothing came from {host}, where it sends us"
            raise UpstreamError(upstream, f"cannot be reached{of_whom}") from None


def answer_of(response: WebResponse) -> Answer:
    """An answer of the runtime as ours."""
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
    """Scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def resolve(upstream: Upstream, base: str, address: str) -> str:
    """An address that an upstream names. Raises UpstreamError unless it keeps secrets as the upstream's own does."""
    try:
        url = urljoin(base, address)
        parts = urlsplit(url)
    except ValueError:
        raise UpstreamError(upstream, "sends us to what is no address") from None
    if parts.scheme != "https" and not (parts.scheme == "http" and upstream.origin.startswith("http:")):
        raise UpstreamError(upstream, "sends us to an insecure address")
    return url
