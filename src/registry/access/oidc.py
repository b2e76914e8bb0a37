"""Identity tokens of trusted issuers (OpenID Connect), with which a CI job authenticates without a stored secret."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from registry.access.permissions import Glob, Permissions, parse_glob, parse_permissions
from registry.access.public_keys import parse_key_set, pick
from registry.access.signed_tokens import Token, verify
from registry.ports.crypto import PublicKey
from registry.ports.platform import Platform
from registry.ports.tasks import within
from registry.ports.web import WebError
from registry.setting_lists import parse_list
from registry.spec.errors import Problem, RegistryError
from registry.spec.untrusted_json import read_json
from registry.storage.transfer import read_all
from registry.telemetry.log import log

DEFAULT_SESSION = 3600  # seconds that a refresh token for an identity token is valid: the length of a CI job
MAX_SESSION = 24 * 3600

_FETCH_SECONDS = 5
_MAX_KEY_SET = 256 * 1024  # bytes
_FRESH_SECONDS = 3600  # after which the keys are fetched again
_RETRY_SECONDS = 60  # between two fetches at least, whatever tokens clients send
_STALE_SECONDS = 24 * 3600  # for which known keys are used if the issuer does not answer
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class IdentityRule:
    """Permissions for a token in which each claim of the rule matches one of that claim's globs."""

    claims: tuple[tuple[str, tuple[Glob, ...]], ...]
    permissions: Permissions

    def matches(self, claims: Mapping[str, Any]) -> bool:
        """Whether the rule applies to a token with these claims."""
        return all(
            claim in claims and any(glob.matches(_text(claims[claim])) for glob in globs)
            for claim, globs in self.claims
        )


@dataclass(frozen=True, slots=True)
class Issuer:
    """A trusted issuer. `binding` is a hash of its entry in the setting: any change revokes its refresh tokens."""

    url: str
    key_set: str  # URL
    audience: str
    rules: tuple[IdentityRule, ...]
    session: int  # seconds
    binding: str


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def parse_issuers(text: str) -> tuple[Issuer, ...]:
    """Parse the value of OIDC_ISSUERS_JSON. Raises ValueError with a sentence."""
    return parse_list(text, "issuer", _parse_issuer, lambda issuer: issuer.url)


def _parse_issuer(entry: object) -> Issuer:
    members = {"issuer", "jwks", "audience", "rules"}
    if not isinstance(entry, Mapping) or set(entry) - {"session"} != members:
        raise ValueError(f"must be an object with {', '.join(sorted(members))} and optionally session")
    if not all(isinstance(entry[name], str) and entry[name] for name in ("issuer", "jwks", "audience")):
        raise ValueError("issuer, jwks and audience are strings that are not empty")
    url = urlsplit(entry["jwks"])
    if url.scheme != "https" and not (url.scheme == "http" and url.hostname in _LOOPBACK):
        raise ValueError("jwks must be an https URL")
    session = entry.get("session", DEFAULT_SESSION)
    if not isinstance(session, int) or not 0 < session <= MAX_SESSION:
        raise ValueError(f"session must be a number of seconds from 1 to {MAX_SESSION}")
    if not isinstance(entry["rules"], list) or not entry["rules"]:
        raise ValueError("rules must be a list with at least one rule")
    rules = tuple(_parse_rule(rule) for rule in entry["rules"])
    binding = hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()
    return Issuer(entry["issuer"], entry["jwks"], entry["audience"], rules, session, binding)


def _parse_rule(rule: object) -> IdentityRule:
    if not isinstance(rule, Mapping) or set(rule) != {"claims", "permissions"}:
        raise ValueError("a rule must be an object with claims and permissions, and nothing else")
    claims = rule["claims"]
    if not isinstance(claims, Mapping) or not claims:
        # Everybody can get a token from a public issuer.
        raise ValueError("a rule must have at least one claim: otherwise it admits everybody whom the issuer knows")
    return IdentityRule(
        tuple(
            (str(claim), tuple(parse_glob(glob) for glob in (wanted if isinstance(wanted, list) else [wanted])))
            for claim, wanted in claims.items()
        ),
        parse_permissions(rule["permissions"]),
    )


@dataclass(slots=True)
class _Keys:
    """The keys of an issuer, and the times of the last successful fetch, the last attempt and the last failure."""

    keys: tuple[PublicKey, ...] = ()
    fetched: float = float("-inf")
    tried: float = float("-inf")
    failed: float = float("-inf")

    def may_fetch(self, now: float) -> bool:
        """Whether to fetch now. Before there are keys, each concurrent request fetches: none can wait for another's."""
        return now - (self.failed if self.fetched < 0 else self.tried) >= _RETRY_SECONDS


class Identities:
    """Verifies identity tokens. It caches the issuers' keys for the lifetime of the isolate."""

    def __init__(self, platform: Platform, issuers: tuple[Issuer, ...]) -> None:
        self._platform = platform
        self._issuers = {issuer.url: issuer for issuer in issuers}
        self._keys = {issuer.url: _Keys() for issuer in issuers}

    def issuer(self, url: object) -> Issuer | None:
        """The trusted issuer with this URL (the claim `iss`); None if it is not trusted."""
        return self._issuers.get(url) if isinstance(url, str) else None

    async def verify(self, issuer: Issuer, token: Token) -> tuple[str, Permissions]:
        """The subject and the permissions of an identity token. Raises UNAUTHORIZED or DENIED."""
        key = await self._key(issuer, token.header.get("kid"))
        claims = await verify(self._platform.crypto, token, key, issuer.audience, issuer.url)
        permissions = Permissions()
        for rule in issuer.rules:
            if rule.matches(claims):
                permissions |= rule.permissions
        subject = str(claims.get("sub") or issuer.url)
        if not permissions.tables:
            log("identity-without-permissions", issuer=issuer.url, subject=subject)
            raise RegistryError(Problem.DENIED, "no rule in OIDC_ISSUERS_JSON matches the identity token's claims")
        return subject, permissions

    async def _key(self, issuer: Issuer, key_id: object) -> PublicKey | None:
        known, now = self._keys[issuer.url], self._platform.now()
        key = pick(known.keys, key_id)
        if (key is None or now - known.fetched > _FRESH_SECONDS) and known.may_fetch(now):
            known.tried = now
            try:
                known.keys = await self._fetch(issuer.key_set)
                known.fetched = now
            except (WebError, ValueError) as error:
                known.failed = now
                log("issuer-keys-not-fetched", issuer=issuer.url, error=str(error))
        if now - known.fetched > _STALE_SECONDS:
            raise RegistryError(
                Problem.UNAVAILABLE,
                "the keys of the identity token's issuer cannot be fetched: try again in a minute",
                headers={"Retry-After": str(_RETRY_SECONDS)},
            )
        return pick(known.keys, key_id)

    async def _fetch(self, url: str) -> tuple[PublicKey, ...]:
        try:
            data = await within(_FETCH_SECONDS, self._platform.sleep, self._read(url))
        except TimeoutError:
            raise WebError(f"no answer within {_FETCH_SECONDS} seconds") from None
        return parse_key_set(read_json(data, _MAX_KEY_SET))

    async def _read(self, url: str) -> bytes:
        answer = await self._platform.web.fetch("GET", url, {"Accept": "application/json"})
        try:
            if answer.status != 200:
                raise WebError(f"status {answer.status}")
            data = await read_all(answer.body, _MAX_KEY_SET)
        finally:
            await answer.body.cancel()
        if len(data) > _MAX_KEY_SET:
            raise WebError(f"more than {_MAX_KEY_SET} bytes")
        return data
