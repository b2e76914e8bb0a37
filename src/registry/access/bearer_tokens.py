"""The tokens that the registry issues (HS256): short-lived access tokens for the API, and refresh tokens to renew them.

An access token lists the requested access that was granted, and the requested access that was denied. So a client whose
token does not cover a request is told to request another (401), and a client whose account lacks the permission is
refused (403). The two kinds of token have different audiences, so that neither is accepted as the other.
"""

from collections.abc import Mapping
from typing import Any

import jwt

from registry.access.callers import Caller, Grant
from registry.access.permissions import Permissions, parse_tables
from registry.access.scopes import Scopes, parse_scopes
from registry.access.signed_tokens import MAX_TOKEN, Token
from registry.access.signing_key import SigningKey
from registry.ports.platform import Platform
from registry.spec.errors import Problem, RegistryError

ISSUER = "r2-registry"
ACCESS_SECONDS = 300
_API = "registry"
_TOKEN_ENDPOINT = "token"  # noqa: S105 - an audience
_ALGORITHM = "HS256"


class BearerTokens:
    """Issues and verifies access tokens and refresh tokens."""

    def __init__(self, platform: Platform, key: SigningKey) -> None:
        self._platform = platform
        self._key = key

    async def issue_access(
        self, name: str, asked: Scopes, allowed: Permissions, latest: float | None
    ) -> tuple[str, int]:
        """Issue a token for the part of `asked` that is `allowed`; returns it with its lifetime in seconds.

        It expires at `latest` (seconds since the epoch) at the latest.
        """
        if not name:
            asked = Scopes(asked.repositories)  # an anonymous caller does not get the catalogue
        now = int(self._platform.now())
        expires = now + ACCESS_SECONDS if latest is None else min(now + ACCESS_SECONDS, int(latest))
        granted = asked.cut(allowed)
        denied = Scopes(
            tuple(
                (repository, access - has)
                for (repository, access), (_, has) in zip(asked.repositories, granted.repositories, strict=True)
            ),
            asked.catalog and not granted.catalog,
        )
        claims = {
            "aud": _API,
            "sub": name,
            "iat": now,
            "exp": expires,
            "access": granted.as_json(),
            "denied": denied.as_json(),
        }
        if granted.catalog:
            claims["listing"] = allowed.as_json()
        token = await self._sign(claims)
        if len(token) > MAX_TOKEN:
            raise RegistryError(Problem.BAD_REQUEST, "the token would be too long: ask for fewer scopes at once")
        return token, expires - now

    async def read_access(self, token: Token) -> tuple[Caller, int]:
        """The caller of an access token, and its expiry (seconds since the epoch). Raises UNAUTHORIZED."""
        claims = await self._verify(token, _API)
        grant = Grant(_scopes(claims["denied"]), parse_tables(claims.get("listing", [])))
        return Caller(claims["sub"], _scopes(claims["access"]).permissions(), grant), claims["exp"]

    async def issue_refresh(self, name: str, claims: Mapping[str, Any]) -> str:
        """Issue a refresh token with these claims, which must include `exp`. `read_refresh` returns them."""
        return await self._sign({**claims, "aud": _TOKEN_ENDPOINT, "sub": name})

    async def read_refresh(self, token: Token) -> Mapping[str, Any]:
        """The claims of a refresh token. Raises UNAUTHORIZED."""
        return await self._verify(token, _TOKEN_ENDPOINT)

    async def binding_key(self) -> bytes:
        """The key for the hashes of account secrets in refresh tokens (`registry.access.accounts.bind`)."""
        return await self._key.derive("refresh token bindings")

    async def _sign(self, claims: Mapping[str, Any]) -> str:
        return jwt.encode({"iss": ISSUER, **claims}, await self._signing_key(), _ALGORITHM)

    async def _verify(self, token: Token, audience: str) -> Mapping[str, Any]:
        try:
            return self._decode(token, await self._signing_key(), audience)
        except jwt.InvalidTokenError as error:
            raise RegistryError(Problem.UNAUTHORIZED, f"the token is not valid: {error}") from None

    async def _signing_key(self) -> bytes:
        return await self._key.derive("bearer tokens")

    def _decode(self, token: Token, key: bytes, audience: str) -> Mapping[str, Any]:
        options: jwt.types.Options = {"require": ["sub", "exp"]}
        claims: Mapping[str, Any] = jwt.decode(
            token.text, key, algorithms=[_ALGORITHM], audience=audience, issuer=ISSUER, options=options
        )
        return claims


def _scopes(access: list[Mapping[str, Any]]) -> Scopes:
    return parse_scopes(f"{one['type']}:{one['name']}:{','.join(one['actions'])}" for one in access)
