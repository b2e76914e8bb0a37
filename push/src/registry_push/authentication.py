"""The Authorization header: Basic, or a Bearer token that the registry's token server gives for a password.

After the distribution project's token specification and its OAuth2 variant.
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
_TOKEN = re.compile(r"[!-~]{1,65536}")  # what a header takes
_DEFAULT_LIFETIME = 60.0  # seconds, of a token that does not say: the specification's
_MARGIN = 15.0  # seconds before its end at which a token is renewed


class Authentication:
    """What one run knows about how to come in. Thinks of nothing until the registry asks."""

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
        """The header for the next request; a token that is about to end is renewed first."""
        async with self._lock:
            if self._bearer is not None and time.monotonic() > self._expires - _MARGIN:
                await self._fetch_token(self._bearer)
            return self._header

    async def answer(self, response: httpx.Response, used: str | None) -> bool:
        """Do what a 401 asks for, the answer to the header `used`; raises Refused when that is futile."""
        async with self._lock:
            if self._header != used:
                return True  # another request has done it meanwhile
            challenges = _challenges(response)
            if "bearer" in challenges:
                self._bearer = challenges["bearer"]
                await self._fetch_token(self._bearer)
            elif "basic" in challenges:
                self._header = self._basic(response)
            else:
                raise Refused(f"{response.url.host} wants credentials of a kind that this tool does not have")
            if self._header == used:
                raise Refused(f"{response.url.host} does not take the credentials of {self._who()}")
            return True

    def _basic(self, response: httpx.Response) -> str:
        if self._credentials is None or not self._credentials.username:
            host = response.url.netloc.decode()
            raise Refused(f"{host} wants credentials: docker login {host}, or --username and --password-stdin")
        return self._credentials.basic

    def _who(self) -> str:
        if self._credentials is None:
            return "nobody"
        return self._credentials.username or "an identity token"

    async def _fetch_token(self, challenge: dict[str, str]) -> None:
        realm = self._token_servers.check(challenge.get("realm", ""), with_secret=self._credentials is not None)
        scopes = list(dict.fromkeys([*self._scopes, *challenge.get("scope", "").split()]))
        answer = await self._ask_token_server(realm, challenge.get("service", ""), scopes)
        if answer.status_code in (400, 401, 403):
            raise Refused(f"{realm.host} gives {self._who()} no token for {' '.join(scopes)}")
        try:
            content = read_json(answer.raise_for_status().content)
            token = content.get("token") or content["access_token"]
            lifetime = float(content.get("expires_in") or _DEFAULT_LIFETIME)
            is_token = _TOKEN.fullmatch(token) is not None
        except (httpx.HTTPStatusError, ValueError, OverflowError, KeyError, AttributeError, TypeError):
            is_token = False
        if not is_token:
            raise Unreachable(f"{realm.host} answered {answer.status_code} without a token")
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
            raise Unreachable(f"{realm.host}, which gives the tokens, cannot be reached: {described(error)}") from None

    async def _send(self, request: httpx.Request) -> httpx.Response:
        """One request; where it is redirected to, nobody follows."""
        return await read_answer(await self._http.send(request, stream=True, follow_redirects=False))


class AsGiven:
    """The header that another client gave: what it is worth is between that client and the registry."""

    def __init__(self, value: str | None) -> None:
        self._value = value

    async def header(self) -> str | None:
        """The header as it came."""
        return self._value

    async def answer(self, response: httpx.Response, used: str | None) -> bool:  # noqa: ARG002 - the protocol's
        """A 401 is for the other client."""
        return False


def _challenges(response: httpx.Response) -> dict[str, dict[str, str]]:
    """The parameters of each scheme that the answer offers."""
    found: dict[str, dict[str, str]] = {}
    for value in response.headers.get_list("www-authenticate"):
        scheme, _, parameters = value.partition(" ")
        pairs = [pair for pair in parse_http_list(parameters) if pair.partition("=")[2]]
        found[scheme.lower()] = parse_keqv_list(pairs)
    return found
