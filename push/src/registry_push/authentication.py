"""The Authorization header: Basic, or a Bearer token that the registry's token server issues for a password.

Follows the distribution project's token specification and its OAuth2 variant.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from urllib.request import parse_http_list, parse_keqv_list

import httpx

from registry_push.answers import read_answer
from registry_push.credentials import Credentials
from registry_push.failures import Refused, Unreachable
from registry_push.retries import described
from registry_push.token_servers import TokenServers
from registry_push.untrusted_json import read_json

CLIENT_ID = "registry-push"
_LOG_IN = "run `docker login {}`, or pass --username and --password-stdin"  # with the registry's host
_TOKEN = re.compile(r"[!-~]{1,65536}")  # the characters that a header value may have
_DEFAULT_LIFETIME = 60.0  # seconds, for a token without `expires_in`: the specification's default
_MARGIN = 15.0  # seconds before its expiry at which a token is renewed


class Authentication:
    """The authentication state of one run. It sends no credentials until the registry's first 401."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        credentials: Credentials | None,
        scopes: Sequence[str],
        token_servers: TokenServers,
    ) -> None:
        self._http = http
        self._credentials = credentials
        self._scopes = list(scopes)
        self._token_servers = token_servers
        self._bearer: dict[str, str] | None = None  # the parameters of the challenge
        self._header: str | None = None
        self._expires = float("inf")
        self._lock = asyncio.Lock()

    async def header(self) -> str | None:
        """The header for the next request; a token that is about to expire is renewed first."""
        async with self._lock:
            if self._bearer is not None and time.monotonic() > self._expires - _MARGIN:
                await self._fetch_token(self._bearer)
            return self._header

    async def answer(self, response: httpx.Response, used: str | None) -> bool:
        """Authenticate as the 401 `response` demands; `used` is the header of the request that it answers.

        Raises Refused when the credentials do not suffice.
        """
        async with self._lock:
            if self._header != used:
                return True  # another request has authenticated meanwhile
            challenges = _challenges(response)
            if "bearer" in challenges:
                self._bearer = challenges["bearer"]
                await self._fetch_token(self._bearer)
            elif "basic" in challenges:
                self._header = self._basic(response)
            else:
                raise Refused(f"{response.url.host} offers neither Basic nor Bearer authentication: use another client")
            if self._header == used:
                raise self._refused(response)
            return True

    def _basic(self, response: httpx.Response) -> str:
        if self._credentials is None or not self._credentials.username:
            host = response.url.netloc.decode()
            raise Refused(f"{host} requires credentials: {_LOG_IN.format(host)}")
        return self._credentials.basic

    def _refused(self, response: httpx.Response) -> Refused:
        host = response.url.netloc.decode()
        if self._credentials is None:
            return Refused(f"{host} refused a request without credentials: {_LOG_IN.format(host)}")
        return Refused(
            f"{host} refused the credentials of {self._user(self._credentials)}: check them, or log in again"
        )

    def _no_token(self, realm: httpx.URL, scopes: Sequence[str]) -> Refused:
        wanted = f"a token for {' '.join(scopes)}"
        if self._credentials is None:
            log_in = _LOG_IN.format(self._token_servers.registry.host)
            return Refused(f"{realm.host} refused {wanted} without credentials: {log_in}")
        user = self._user(self._credentials)
        return Refused(f"{realm.host} refused {user} {wanted}: check the password, and what the account may do")

    def _user(self, credentials: Credentials) -> str:
        return credentials.username or "an identity token"

    async def _fetch_token(self, challenge: dict[str, str]) -> None:
        realm = self._token_servers.check(challenge.get("realm", ""), with_secret=self._credentials is not None)
        scopes = list(dict.fromkeys([*self._scopes, *challenge.get("scope", "").split()]))
        answer = await self._ask_token_server(realm, challenge.get("service", ""), scopes)
        if answer.status_code in (400, 401, 403):
            raise self._no_token(realm, scopes)
        try:
            content = read_json(answer.raise_for_status().content)
            token = content.get("token") or content["access_token"]
            lifetime = float(content.get("expires_in") or _DEFAULT_LIFETIME)
            is_token = _TOKEN.fullmatch(token) is not None
        except (httpx.HTTPStatusError, ValueError, OverflowError, KeyError, AttributeError, TypeError):
            is_token = False
        if not is_token:
            raise Unreachable(f"the token server {realm.host} answered {answer.status_code} without a token")
        self._expires = time.monotonic() + lifetime
        self._header = f"Bearer {token}"

    async def _ask_token_server(self, realm: httpx.URL, service: str, scopes: Sequence[str]) -> httpx.Response:
        try:
            if self._credentials is not None and self._credentials.identity_token:
                form = {
                    "grant_type": "refresh_token",
                    "refresh_token": self._credentials.identity_token,
                    "service": service,
                    "client_id": CLIENT_ID,
                    "scope": " ".join(scopes),
                }
                return await self._send(self._http.build_request("POST", realm, data=form))
            headers = {} if self._credentials is None else {"Authorization": self._credentials.basic}
            query: list[tuple[str, str | int | float | bool | None]] = [
                ("service", service),
                *(("scope", scope) for scope in scopes),
            ]
            url = realm.copy_merge_params(query)
            return await self._send(self._http.build_request("GET", url, headers=headers))
        except httpx.TransportError as error:
            raise Unreachable(f"the token server {realm.host} cannot be reached: {described(error)}") from None

    async def _send(self, request: httpx.Request) -> httpx.Response:
        """Send one request. Redirects are not followed: they would take the password to another host."""
        return await read_answer(await self._http.send(request, stream=True, follow_redirects=False))


class AsGiven:
    """Passes on the Authorization header of a client of the proxy. The registry alone judges it."""

    def __init__(self, value: str | None) -> None:
        self._value = value

    async def header(self) -> str | None:
        """The header as received."""
        return self._value

    async def answer(self, response: httpx.Response, used: str | None) -> bool:  # noqa: ARG002 - the protocol's
        """Decline: the client itself has to answer the 401."""
        return False


def _challenges(response: httpx.Response) -> dict[str, dict[str, str]]:
    """The parameters of each authentication scheme that a 401 offers."""
    found: dict[str, dict[str, str]] = {}
    for value in response.headers.get_list("www-authenticate"):
        scheme, _, parameters = value.partition(" ")
        pairs = [pair for pair in parse_http_list(parameters) if pair.partition("=")[2]]
        found[scheme.lower()] = parse_keqv_list(pairs)
    return found
