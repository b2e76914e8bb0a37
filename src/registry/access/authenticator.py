"""Authentication: identifies the caller by the credentials of a request.

Credentials are Basic (RFC 7617: a password, or a signed token in its place) or Bearer (RFC 6750: a token that the
registry issued, or a signed token). A request with wrong credentials, or without any where some are needed, gets 401
with a challenge. A request with valid credentials and too few permissions gets 403 (`registry.access.authorizer`).
"""

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from registry.access.accounts import Account, Accounts, bind
from registry.access.bearer_tokens import ISSUER, BearerTokens
from registry.access.callers import Caller
from registry.access.oidc import Identities
from registry.access.password_guard import PasswordGuard
from registry.access.permissions import Permissions, allow, parse_access, parse_repository_glob, parse_tables
from registry.access.public_keys import pick
from registry.access.settings import AccessSettings
from registry.access.signed_tokens import LEEWAY, Token, read_token, verify
from registry.access.signing_key import SigningKey
from registry.ports.platform import Platform
from registry.spec.endpoints import EVERYTHING
from registry.spec.errors import Problem, RegistryError
from registry.telemetry.log import log

# Returns a header of the request by its name in lower case.
Header = Callable[[str], str | None]

# Homebrew sends this ("A" in base64) to a public registry: it means that there are no credentials.
_NO_TOKEN = "Bearer QQ=="  # noqa: S105 - it is none
_MAX_HEADER = 16 * 1024  # characters of an Authorization header
# Verified credentials are cached: a signature or a PBKDF2 costs more than everything else in a small request.
_REMEMBERED = 1_000
_REMEMBERED_SECONDS = 300
_MAX_NAME = 200  # characters of a name in a token, for the log


@dataclass(frozen=True, slots=True)
class Identity:
    """The result of authentication. `expires` is in seconds since the epoch (None: never).

    A refresh token can be issued for an `account`, or with the claims in `refresh`.
    """

    caller: Caller
    expires: float | None = None
    account: Account | None = None
    refresh: Mapping[str, Any] | None = None
    generation: int | None = None  # of the signing key, if the registry signed the credentials


@dataclass(frozen=True, slots=True)
class _Remembered:
    caller: Caller
    expires: float  # seconds since the epoch
    generation: int | None  # of the signing key: a new key revokes the credentials


class Authenticator:
    """All methods of authentication. If the operator configured none, every request is refused."""

    def __init__(self, platform: Platform, settings: AccessSettings, key: SigningKey) -> None:
        self._platform = platform
        self._accounts = Accounts(settings.accounts, platform.crypto)
        self._keys = settings.token_keys
        self._audience = settings.token_audience
        self._identities = Identities(platform, settings.issuers)
        self._allows_anonymous = bool(settings.anonymous_pull)
        self._remembered: dict[bytes, _Remembered] = {}
        self._guard = PasswordGuard(platform.now, platform.sleep)
        self._key = key
        self._refresh_seconds = settings.refresh_seconds
        self.tokens = BearerTokens(platform, key)
        if not (settings.accounts or settings.token_keys or settings.issuers or settings.anonymous_pull):
            log(
                "no-credentials-configured",
                help="every request is refused until USERNAME and PASSWORD are set: npx wrangler secret put USERNAME "
                "--env production, then the same for PASSWORD",
            )

    # ------------------------------------------------------------------ methods of authentication
    async def identify(self, header: Header) -> Caller | None:
        """Identify the caller of a request; None without credentials. Raises UNAUTHORIZED for wrong credentials."""
        authorization = header("authorization")
        if authorization is None or authorization == _NO_TOKEN:
            return None
        fingerprint = hashlib.sha256(authorization.encode(errors="surrogatepass")).digest()
        if (known := self._remembered.get(fingerprint)) is not None and await self._still_holds(known):
            return known.caller
        scheme, credentials = _split(authorization)
        if scheme == "basic":
            identity = await self._by_password(*_basic(credentials), _address(header))
        elif scheme == "bearer":
            identity = await self._by_bearer(credentials)
        else:
            raise RegistryError(Problem.UNAUTHORIZED, "this registry accepts only Basic credentials and Bearer tokens")
        self._remember(fingerprint, identity)
        return identity.caller

    async def identify_for_token(self, header: Header) -> Identity:
        """Identify the caller of a token request by its Authorization header.

        Without the header the identity is anonymous where anonymous pulls are allowed. Otherwise raises UNAUTHORIZED.
        """
        authorization = header("authorization")
        if authorization is None:
            if not self._allows_anonymous:
                raise RegistryError(Problem.UNAUTHORIZED)
            return Identity(Caller("", Permissions()))
        scheme, credentials = _split(authorization)
        if scheme != "basic":
            raise RegistryError(Problem.UNAUTHORIZED, "the token endpoint accepts only Basic credentials")
        return await self.identify_by_secret(*_basic(credentials), header)

    async def identify_by_secret(self, name: str, secret: str, header: Header) -> Identity:
        """Identify the caller by a password, or by a signed token, identity token or refresh token in its place."""
        token = read_token(secret)
        if token is not None and token.issuer == ISSUER:
            return await self._by_refresh(token)
        issuer = self._identities.issuer(token.issuer) if token is not None else None
        if token is not None and issuer is not None:
            subject, permissions = await self._identities.verify(issuer, token)
            claims = {
                "issuer": issuer.url,
                "binding": issuer.binding,
                "permissions": permissions.as_json(),
                "exp": int(self._platform.now()) + issuer.session,
            }
            return Identity(Caller(subject[:_MAX_NAME], permissions), refresh=claims)
        return await self._by_password(name, secret, _address(header))

    async def refresh_token(self, identity: Identity) -> str | None:
        """Issue a refresh token; None for an identity that does not get one, such as that of a signed token."""
        claims = identity.refresh
        if identity.account is not None:
            claims = {
                "binding": bind(identity.account, await self.tokens.binding_key()),
                "exp": int(self._platform.now()) + self._refresh_seconds,
            }
        return None if claims is None else await self.tokens.issue_refresh(identity.caller.name, claims)

    async def _by_password(self, name: str, secret: str, address: str) -> Identity:
        token = read_token(secret) if self._keys else None
        account = self._accounts.find_plain(name, secret)
        if account is None and token is not None:
            return await self._by_signed_token(token)
        account = account or await self._by_stretched(name, secret, address)
        if account is None:
            known = name if name in self._accounts.names() else None
            raise RegistryError(Problem.UNAUTHORIZED, "wrong user name or password", account=known)
        return Identity(Caller(account.name, account.permissions), account=account)

    async def _by_stretched(self, name: str, secret: str, address: str) -> Account | None:
        """The account, among those with PBKDF2. Raises TOO_MANY_REQUESTS after too many wrong passwords."""
        fingerprint = hashlib.sha256(f"{name}:{secret}".encode(errors="surrogatepass")).digest()
        if not self._accounts.has_stretched or self._guard.knows_wrong(fingerprint):
            return None
        async with self._guard.attempt(address, name) as refund:
            account = await self._accounts.find_stretched(name, secret)
        if account is None:
            self._guard.note_wrong(fingerprint)
        else:
            refund()
        return account

    async def _by_bearer(self, text: str) -> Identity:
        token = read_token(text)
        if token is None:
            raise RegistryError(Problem.UNAUTHORIZED, "the token is malformed: it must be a JSON Web Token")
        if token.issuer != ISSUER:
            return await self._by_signed_token(token)
        return Identity(*await self.tokens.read_access(token), generation=await self._key.generation())

    async def _by_signed_token(self, token: Token) -> Identity:
        key = pick(self._keys, token.header.get("kid"))
        claims = await verify(self._platform.crypto, token, key, self._audience)
        name = claims.get("username") or claims.get("sub") or "token"
        try:
            permissions = _permissions(claims)
        except ValueError as error:
            raise RegistryError(Problem.UNAUTHORIZED, f"the token is not valid: {error}") from None
        return Identity(Caller(str(name)[:_MAX_NAME], permissions), int(claims["exp"]) + LEEWAY)

    async def _by_refresh(self, token: Token) -> Identity:
        claims = await self.tokens.read_refresh(token)
        if "issuer" in claims:
            issuer = self._identities.issuer(claims["issuer"])
            if issuer is not None and issuer.binding == claims["binding"]:
                return Identity(Caller(claims["sub"], parse_tables(claims["permissions"])), claims["exp"])
        else:
            account = self._accounts.find_bound(claims["sub"], claims["binding"], await self.tokens.binding_key())
            if account is not None:
                return Identity(Caller(account.name, account.permissions), account=account)
        raise RegistryError(
            Problem.UNAUTHORIZED, "the account or issuer of this refresh token has changed: log in again"
        )

    def _remember(self, fingerprint: bytes, identity: Identity) -> None:
        if len(self._remembered) >= _REMEMBERED:
            self._remembered.clear()
        latest = self._platform.now() + _REMEMBERED_SECONDS
        expires = latest if identity.expires is None else min(latest, identity.expires)
        self._remembered[fingerprint] = _Remembered(identity.caller, expires, identity.generation)

    async def _still_holds(self, known: "_Remembered") -> bool:
        if self._platform.now() >= known.expires:
            return False
        return known.generation is None or known.generation == await self._key.generation()


def _permissions(claims: Mapping[str, Any]) -> Permissions:
    """The permissions of a signed token: its capabilities, limited to the repositories in its claim `access`, if any.

    Raises ValueError.
    """
    capabilities, entries = claims.get("capabilities"), claims.get("access")
    if capabilities is None and entries is None:
        raise ValueError("it has neither capabilities nor access")
    limit = EVERYTHING if capabilities is None else parse_access(capabilities)
    if entries is None:
        return allow(limit, "**")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("access is a list of objects with type, name and actions")
    permissions = Permissions()
    for entry in entries:
        if entry.get("type") == "repository":
            access = EVERYTHING if entry.get("actions") == ["*"] else parse_access(entry.get("actions"))
            permissions |= allow(access & limit, parse_repository_glob(entry.get("name")).text)
    return permissions


def _address(header: Header) -> str:
    """The client's address, in a header that Cloudflare sets and a client cannot."""
    return header("cf-connecting-ip") or ""


def _split(authorization: str) -> tuple[str, str]:
    if len(authorization) > _MAX_HEADER:
        raise RegistryError(Problem.UNAUTHORIZED, f"the Authorization header has more than {_MAX_HEADER} characters")
    scheme, _, credentials = authorization.partition(" ")
    return scheme.lower(), credentials.strip()


def _basic(encoded: str) -> tuple[str, str]:
    try:
        decoded = base64.b64decode(encoded, validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        raise RegistryError(
            Problem.UNAUTHORIZED, "the Authorization header is not base64 of user:password in UTF-8"
        ) from None
    name, _, secret = decoded.partition(":")
    return name, secret
