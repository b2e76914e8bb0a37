"""Credentials for upstream registries: Basic, tokens of a token server, passwords of Amazon ECR.

They are used only for pulls. Only the upstream's own origin and its token server get the password.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from registry.ports.platform import Platform
from registry.spec.challenges import Challenge, parse_challenges
from registry.spec.names import RepositoryName
from registry.spec.untrusted_json import read_json
from registry.upstream import ecr
from registry.upstream.exchange import HEADERS, Exchange, UpstreamError, answer_of, origin_of, resolve
from registry.upstream.upstreams import Auth, Upstream

_DENIALS = frozenset({401, 403})
_MAX_TOKEN_ANSWER = 64 * 1024  # bytes
_DEFAULT_TOKEN_SECONDS = 60  # token specification: "expires_in ... If omitted, this defaults to 60 seconds"
_MARGIN = 10  # seconds before its expiry from which a token is not used any more
_MAX_TOKEN_SECONDS = 24 * 3600
_MAX_TOKENS = 200
# The characters that a header may have: with others the runtime would log the token. No registry's token has 16 KiB.
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Token:
    authorization: str
    expires: float  # seconds since the epoch


class Credentials:
    """Gets credentials. Keeps tokens for the life of the isolate."""

    def __init__(self, platform: Platform, exchange: Exchange) -> None:
        self._platform = platform
        self._exchange = exchange
        self._tokens: dict[tuple[str, str, str], _Token] = {}

    def known(self, upstream: Upstream, name: RepositoryName) -> str | None:
        """Return the Authorization header of the first request; None to send the request without one."""
        token = self._tokens.get(_key(upstream, name))
        if token is not None and token.expires > self._platform.now():
            return token.authorization
        return _basic(upstream) if upstream.auth is Auth.BASIC else None

    async def obtain(self, upstream: Upstream, name: RepositoryName, challenge: str) -> str:
        """Return the Authorization header that answers the upstream's challenge. Raises UpstreamError."""
        token = await self._authorise(upstream, name, challenge)
        if len(self._tokens) >= _MAX_TOKENS:
            self._tokens.clear()
        self._tokens[_key(upstream, name)] = token
        return token.authorization

    def forget(self, upstream: Upstream, name: RepositoryName) -> None:
        """Drop the token after a denial, so that the next request gets new credentials."""
        self._tokens.pop(_key(upstream, name), None)

    async def _authorise(self, upstream: Upstream, name: RepositoryName, challenge: str) -> _Token:
        """Get the credentials for the first challenge that they can answer."""
        if upstream.auth is Auth.ECR:
            return await self._buy_ecr_password(upstream)
        for one in parse_challenges(challenge):
            if one.scheme == "bearer" and "realm" in one.parameters:
                return await self._fetch_token(upstream, name, one)
            if one.scheme == "basic" and upstream.username:
                return _Token(_basic(upstream), float("inf"))
        what = "of another type than those in" if upstream.username else "and has none in"
        raise UpstreamError(upstream, f"asks for credentials {what} REGISTRIES_JSON", is_denial=not upstream.username)

    async def _fetch_token(self, upstream: Upstream, name: RepositoryName, challenge: Challenge) -> _Token:
        """Request a pull token with GET; if the token server refuses, with POST (OAuth2)."""
        address = resolve(upstream, upstream.origin, challenge.parameters["realm"])
        realm = urlsplit(address)
        if origin_of(address) not in (upstream.origin, upstream.token_server):
            # Otherwise an attacker who can change the upstream's answer could have the password sent to any host.
            raise UpstreamError(
                upstream,
                f"names the token server {realm.netloc}, which REGISTRIES_JSON must name as token_server",
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
                "client_id": HEADERS["User-Agent"],
                **asked,
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            status, answer = await self._ask_for_token(upstream, "POST", urlunsplit(realm), headers, urlencode(form))
        token = answer.get("token") or answer.get("access_token")
        if status != 200 or not isinstance(token, str) or _TOKEN.fullmatch(token) is None:
            is_refused = refusal == 401 and bool(upstream.username)
            problem = "refused the credentials in REGISTRIES_JSON" if is_refused else f"answered {refusal}"
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
        answer = answer_of(await self._exchange.fetch(upstream, method, url, {**HEADERS, **headers}, form))
        data = await self._exchange.read(upstream, answer, _MAX_TOKEN_ANSWER)
        try:
            value = read_json(data, _MAX_TOKEN_ANSWER)
        except ValueError:
            value = None
        return answer.status, value if isinstance(value, dict) else {}

    async def _buy_ecr_password(self, upstream: Upstream) -> _Token:
        key = ecr.AccessKey(upstream.username, upstream.password)
        request = ecr.token_request(upstream.host, key, self._platform.now())
        headers = {**HEADERS, **request.headers}
        answer = answer_of(await self._exchange.fetch(upstream, "POST", request.url, headers, request.body))
        data = await self._exchange.read(upstream, answer, ecr.MAX_ANSWER)
        if answer.status != 200:
            raise UpstreamError(upstream, f"gives no token: GetAuthorizationToken answered {answer.status}")
        try:
            authorization, expires = ecr.read_token(data)
        except ValueError:
            raise UpstreamError(upstream, "gives no token: GetAuthorizationToken answered without one") from None
        return _Token(authorization, expires - _MARGIN)


def _key(upstream: Upstream, name: RepositoryName) -> tuple[str, str, str]:
    return upstream.origin, upstream.username, name


def _basic(upstream: Upstream) -> str:
    return "Basic " + base64.b64encode(f"{upstream.username}:{upstream.password}".encode()).decode()
