"""Identity tokens of trusted issuers (OpenID Connect): how a CI job proves who it is without a secret of ours."""

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

DEFAULT_SESSION = 3600  # seconds that a refresh token of an identity lives: a job's length
MAX_SESSION = 24 * 3600

_FETCH_SECONDS = 5
_MAX_KEY_SET = 256 * 1024  # bytes
_FRESH_SECONDS = 3600  # after which the keys are fetched again
_RETRY_SECONDS = 60  # at most so often, whatever tokens come
_STALE_SECONDS = 24 * 3600  # for which known keys are used while the issuer does not answer
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class IdentityRule:
    """What a token may whose every claim matches one of its globs."""

    claims: tuple[tuple[str, tuple[Glob, ...]], ...]
    permissions: Permissions

    def matches(self, claims: Mapping[str, Any]) -> bool:
        """Whether the rule is for a token with these claims."""
        return all(
            claim in claims and any(glob.matches(_text(claims[claim])) for glob in globs)
            for claim, globs in self.claims
        )


@dataclass(frozen=True, slots=True)
class Issuer:
    """A trusted issuer. `binding` changes with anything that the setting says of it."""

    url: str
    key_set: str  # URL
    audience: str
    rules: tuple[IdentityRule, ...]
    session: int  # seconds
    binding: str


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def parse_issuers(text: str) -> tuple[Issuer, ...]:
    """The value of OIDC_ISSUERS_JSON. Raises ValueError with a sentence."""
    return parse_list(text, "issuer", _parse_issuer, lambda issuer: issuer.url)


def _parse_issuer(entry: object) -> Issuer:
    members = {"issuer", "jwks", "audience", "rules"}
    if not isinstance(entry, Mapping) or set(entry) - {"session"} != members:
        raise ValueError(f"it is an object with {', '.join(sorted(members))} and, if you like, session")
    if not all(isinstance(entry[name], str) and entry[name] for name in ("issuer", "jwks", "audience")):
        raise ValueError("issuer, jwks and audience are strings")
    url = urlsplit(entry["jwks"])
    if url.scheme != "https" and not (url.scheme == "http" and url.hostname in _LOOPBACK):
        raise ValueError("jwks is an https URL")
    session = entry.get("session", DEFAULT_SESSION)
    if not isinstance(session, int) or not 0 < session <= MAX_SESSION:
        raise ValueError(f"session is a number of seconds up to {MAX_SESSION}")
    if not isinstance(entry["rules"], list) or not entry["rules"]:
        raise ValueError("rules is a list with at least one rule")
    rules = tuple(_parse_rule(rule) for rule in entry["rules"])
    binding = hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()
    return Issuer(entry["issuer"], entry["jwks"], entry["audience"], rules, session, binding)


def _parse_rule(rule: object) -> IdentityRule:
    if not isinstance(rule, Mapping) or set(rule) != {"claims", "permissions"}:
        raise ValueError("a rule is an object with claims and permissions")
    claims = rule["claims"]
    if not isinstance(claims, Mapping) or not claims:
        # Anybody can have a token of a public issuer.
        raise ValueError("a rule has at least one claim: without one it would let in everybody the issuer knows")
    return IdentityRule(
        tuple(
            (str(claim), tuple(parse_glob(glob) for glob in (wanted if isinstance(wanted, list) else [wanted])))
            for claim, wanted in claims.items()
        ),
        parse_permissions(rule["permissions"]),
    )


@dataclass(slots=True)
class _Keys:
    """The keys of an issuer: when they came, when they were last asked for, and when that last failed."""

    keys: tuple[PublicKey, ...] = ()
    fetched: float = float("-inf")
    tried: float = float("-inf")
    failed: float = float("-inf")

    def may_fetch(self, now: float) -> bool:
        """Whether to ask now. Requests that meet before there are keys all ask: none can wait for another's answer."""
        return now - (self.failed if self.fetched < 0 else self.tried) >= _RETRY_SECONDS


class Identities:
    """Verifies identity tokens. Keeps the issuers' keys for the life of the isolate."""

    def __init__(self, platform: Platform, issuers: tuple[Issuer, ...]) -> None:
        self._platform = platform
        self._issuers = {issuer.url: issuer for issuer in issuers}
        self._keys = {issuer.url: _Keys() for issuer in issuers}

    def issuer(self, url: object) -> Issuer | None:
        """The trusted issuer of this name."""
        return self._issuers.get(url) if isinstance(url, str) else None

    async def verify(self, issuer: Issuer, token: Token) -> tuple[str, Permissions]:
        """The subject of an identity token, and what it may do. Raises UNAUTHORIZED or DENIED."""
        key = await self._key(issuer, token.header.get("kid"))
        claims = await verify(self._platform.crypto, token, key, issuer.audience, issuer.url)
        permissions = Permissions()
        for rule in issuer.rules:
            if rule.matches(claims):
                permissions |= rule.permissions
        subject = str(claims.get("sub") or issuer.url)
        if not permissions.tables:
            log("identity-without-permissions", issuer=issuer.url, subject=subject)
            raise RegistryError(Problem.DENIED, "no rule of this registry fits the identity token's claims")
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
                "the identity token's issuer does not give its keys: try again in a minute",
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
