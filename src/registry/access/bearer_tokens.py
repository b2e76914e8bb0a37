"""The registry's own tokens (HS256): short-lived ones for the API, and refresh tokens that bring new ones.

An access token holds what was asked for and granted, and what was asked for and denied: so that a client with too
narrow a token is told to ask again (401), and one whose account may not, to give up (403). The two kinds have different
audiences, and neither passes for the other.
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
    """Issues and verifies."""

    def __init__(self, platform: Platform, key: SigningKey) -> None:
        self._platform = platform
        self._key = key

    async def issue_access(
        self, name: str, asked: Scopes, allowed: Permissions, latest: float | None
    ) -> tuple[str, int]:
        """A token for what of `asked` is `allowed`, valid no longer than `latest`; and its seconds."""
        if not name:
            asked = Scopes(asked.repositories)  # the catalogue is for who has an account
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
            raise RegistryError(Problem.BAD_REQUEST, "the scopes make the token too long: ask for fewer at once")
        return token, expires - now

    async def read_access(self, token: Token) -> tuple[Caller, int]:
        """Who brings an access token, and when it expires (seconds since the epoch). Raises UNAUTHORIZED."""
        claims = await self._verify(token, _API)
        grant = Grant(_scopes(claims["denied"]), parse_tables(claims.get("listing", [])))
        return Caller(claims["sub"], _scopes(claims["access"]).permissions(), grant), claims["exp"]

    async def issue_refresh(self, name: str, claims: Mapping[str, Any]) -> str:
        """A refresh token with claims that `read_refresh` gives back, `exp` among them."""
        return await self._sign({**claims, "aud": _TOKEN_ENDPOINT, "sub": name})

    async def read_refresh(self, token: Token) -> Mapping[str, Any]:
        """The claims of a refresh token. Raises UNAUTHORIZED."""
        return await self._verify(token, _TOKEN_ENDPOINT)

    async def binding_key(self) -> bytes:
        """The key for what refresh tokens hold of secrets."""
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
