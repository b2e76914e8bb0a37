"""Asking another registry: credentials, tokens, redirects. Only for pulls, and only what was asked for is sent on."""

import base64
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Self, TypeVar
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from registry.ports.platform import SMALL_DOCUMENT, Platform
from registry.ports.storage import Source
from registry.ports.tasks import within
from registry.ports.web import WebError, WebResponse
from registry.spec.challenges import Challenge, parse_challenges
from registry.spec.errors import Problem, RegistryError
from registry.spec.names import RepositoryName
from registry.spec.untrusted_json import read_json
from registry.storage.transfer import DOCUMENT_FACTOR
from registry.upstream import ecr
from registry.upstream.upstreams import Auth, Upstream

T = TypeVar("T")

_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DENIALS = frozenset({401, 403})
_MAX_TOKEN_ANSWER = 64 * 1024  # bytes
_DEFAULT_TOKEN_SECONDS = 60  # token specification: "expires_in ... If omitted, this defaults to 60 seconds"
_MARGIN = 10  # seconds before its end at which a token is not used any more
_MAX_TOKEN_SECONDS = 24 * 3600
_MAX_TOKENS = 200
# What a header may have: other characters end in the runtime's log. 16 KiB are more than any registry's.
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}", re.ASCII)
_MAX_RETRY_AFTER = 9  # digits
# Some registries refuse who does not say what it is. What is compressed on the way has no length that could be checked.
_HEADERS = {"User-Agent": "r2-registry", "Accept-Encoding": "identity"}


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


@dataclass(frozen=True, slots=True)
class _Token:
    authorization: str
    expires: float  # seconds since the epoch


class UpstreamClient:
    """Asks upstreams. Keeps their tokens for the life of the isolate."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._tokens: dict[tuple[str, str, str], _Token] = {}

    async def ask(
        self,
        upstream: Upstream,
        method: str,
        name: RepositoryName,
        path: str,
        headers: Mapping[str, str] | None = None,
    ) -> Answer | None:
        """The answer to a pull of `path` below the repository `name`; None when the upstream has no such thing.

        Raises UpstreamError for everything but success.
        """
        url = f"{upstream.origin}/v2/{name}/{path}"
        headers = {**_HEADERS, **(headers or {})}
        key = upstream.origin, upstream.username, name
        response, host = await self._follow(upstream, method, url, headers, self._known(upstream, key))
        if response.status == 401:
            await response.body.cancel()
            if host is not None:
                # Another server's challenge must not learn the upstream's password.
                raise UpstreamError(upstream, f"sends us to {host}, which asks for credentials")
            authorization = await self._authorise(upstream, name, response.header("www-authenticate") or "")
            self._remember(key, authorization)
            response, _ = await self._follow(upstream, method, url, headers, authorization.authorization)
        if response.status == 200 or (response.status == 206 and "Range" in headers):
            return _answer(response)
        await response.body.cancel()
        if response.status == 404:
            return None
        if response.status in _DENIALS:
            self._tokens.pop(key, None)
            raise UpstreamError(upstream, f"denies access to {name}, or has no such thing", is_denial=True)
        retry_after = response.header("retry-after") or ""
        raise UpstreamError(
            upstream,
            f"answered {response.status}",
            retry_after=retry_after if _is_number(retry_after) else None,
            status=response.status,
        )

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

    async def _fetch(
        self, upstream: Upstream, method: str, url: str, headers: Mapping[str, str], body: str = ""
    ) -> WebResponse:
        try:
            return await self._in_time(upstream, self._platform.web.fetch(method, url, headers, body))
        except WebError:
            host = urlsplit(url).netloc
            of_whom = "" if host == upstream.host else f": nothing came from {host}, where it sends us"
            raise UpstreamError(upstream, f"cannot be reached{of_whom}") from None

    async def _follow(
        self, upstream: Upstream, method: str, url: str, headers: Mapping[str, str], authorization: str | None
    ) -> tuple[WebResponse, str | None]:
        """Ask, and go where redirects lead; the credentials stay with the upstream's own origin.

        Returns the answer, and whose it is when it is not the upstream's own.
        """
        is_own = True
        for _ in range(_MAX_REDIRECTS + 1):
            # Once elsewhere, never again: who redirects back would choose what our credentials open.
            is_own = is_own and _origin(url) == upstream.origin
            sent = {**headers, "Authorization": authorization} if authorization and is_own else headers
            response = await self._fetch(upstream, method, url, sent)
            location = response.header("location")
            if response.status not in _REDIRECTS or location is None:
                return response, None if is_own else urlsplit(url).netloc
            await response.body.cancel()
            url = _resolve(upstream, url, location)
        raise UpstreamError(upstream, "redirects without end")

    # ------------------------------------------------------------------ credentials
    def _known(self, upstream: Upstream, key: tuple[str, str, str]) -> str | None:
        token = self._tokens.get(key)
        if token is not None and token.expires > self._platform.now():
            return token.authorization
        return _basic(upstream) if upstream.auth is Auth.BASIC else None

    def _remember(self, key: tuple[str, str, str], token: _Token) -> None:
        if len(self._tokens) >= _MAX_TOKENS:
            self._tokens.clear()
        self._tokens[key] = token

    async def _authorise(self, upstream: Upstream, name: RepositoryName, challenge: str) -> _Token:
        """What the upstream asks for in its challenge."""
        if upstream.auth is Auth.ECR:
            return await self._buy_ecr_password(upstream)
        for one in parse_challenges(challenge):
            if one.scheme == "bearer" and "realm" in one.parameters:
                return await self._fetch_token(upstream, name, one)
            if one.scheme == "basic" and upstream.username:
                return _Token(_basic(upstream), float("inf"))
        what = "other credentials than" if upstream.username else "credentials, and there are none in"
        raise UpstreamError(upstream, f"asks for {what} REGISTRIES_JSON", is_denial=not upstream.username)

    async def _fetch_token(self, upstream: Upstream, name: RepositoryName, challenge: Challenge) -> _Token:
        """By GET, and where that is refused by POST, as OAuth2 has it. Never for more than pulling."""
        address = _resolve(upstream, upstream.origin, challenge.parameters["realm"])
        realm = urlsplit(address)
        if _origin(address) not in (upstream.origin, upstream.token_server):
            # Who can change an answer on its way would else have our password sent to wherever they like.
            raise UpstreamError(
                upstream,
                f"sends us for a token to {realm.netloc}, which REGISTRIES_JSON must name as token_server",
            )
        asked = {"scope": f"repository:{name}:pull"}
        if "service" in challenge.parameters:
            asked["service"] = challenge.parameters["service"]
        query = urlencode([*parse_qsl(realm.query, keep_blank_values=True), *asked.items()])
        headers = {"Authorization": _basic(upstream)} if upstream.username else {}
        url = urlunsplit(realm._replace(query=query, fragment=""))
        status, answer = await self._ask_for_token(upstream, "GET", url, headers)
        refusal = status
        if status != 200 and upstream.username:
            form = {
                "grant_type": "password",
                "username": upstream.username,
                "password": upstream.password,
                "client_id": _HEADERS["User-Agent"],
                **asked,
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            status, answer = await self._ask_for_token(upstream, "POST", urlunsplit(realm), headers, urlencode(form))
        token = answer.get("token") or answer.get("access_token")
        if status != 200 or not isinstance(token, str) or _TOKEN.fullmatch(token) is None:
            is_refused = refusal == 401 and bool(upstream.username)
            problem = "refuses our credentials" if is_refused else f"answered {refusal}"
            raise UpstreamError(
                upstream,
                f"gives no token: its token server {problem}",
                is_denial=refusal in _DENIALS and not is_refused,
            )
        seconds = answer.get("expires_in")
        lifetime = (
            min(seconds, _MAX_TOKEN_SECONDS) if isinstance(seconds, int) and seconds > 0 else _DEFAULT_TOKEN_SECONDS
        )
        return _Token(f"Bearer {token}", self._platform.now() + lifetime - _MARGIN)

    async def _ask_for_token(
        self, upstream: Upstream, method: str, url: str, headers: Mapping[str, str], form: str = ""
    ) -> tuple[int, Mapping[str, object]]:
        answer = _answer(await self._fetch(upstream, method, url, {**_HEADERS, **headers}, form))
        data = await self.read(upstream, answer, _MAX_TOKEN_ANSWER)
        try:
            value = read_json(data, _MAX_TOKEN_ANSWER)
        except ValueError:
            value = None
        return answer.status, value if isinstance(value, dict) else {}

    async def _buy_ecr_password(self, upstream: Upstream) -> _Token:
        key = ecr.AccessKey(upstream.username, upstream.password)
        request = ecr.token_request(upstream.host, key, self._platform.now())
        headers = {**_HEADERS, **request.headers}
        answer = _answer(await self._fetch(upstream, "POST", request.url, headers, request.body))
        data = await self.read(upstream, answer, ecr.MAX_ANSWER)
        if answer.status != 200:
            raise UpstreamError(upstream, f"gives no token: GetAuthorizationToken answered {answer.status}")
        try:
            authorization, expires = ecr.read_token(data)
        except ValueError:
            raise UpstreamError(upstream, "gives no token: GetAuthorizationToken answered without one") from None
        return _Token(authorization, expires - _MARGIN)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _MAX_RETRY_AFTER


def _answer(response: WebResponse) -> Answer:
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


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _resolve(upstream: Upstream, base: str, address: str) -> str:
    """An address that an upstream names. Raises UpstreamError unless it keeps secrets as the upstream's own does."""
    try:
        url = urljoin(base, address)
        parts = urlsplit(url)
    except ValueError:
        raise UpstreamError(upstream, "sends us to what is no address") from None
    if parts.scheme != "https" and not (parts.scheme == "http" and upstream.origin.startswith("http:")):
        raise UpstreamError(upstream, "sends us to an insecure address")
    return url


def _basic(upstream: Upstream) -> str:
    return "Basic " + base64.b64encode(f"{upstream.username}:{upstream.password}".encode()).decode()
