"""Who calls, and what that caller may do: username and password (RFC 7617)."""

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass

from registry.endpoints import Access, Endpoint, MountBlob, StartUpload
from registry.errors import Problem, RegistryError
from registry.log import log
from registry.settings import Settings

# A fixed realm: it is shown to users, and the request's URL is the client's to choose.
REALM = "container registry"
_CHALLENGE = {"WWW-Authenticate": f'Basic realm="{REALM}", charset="UTF-8"'}

_FULL = frozenset(Access)
_READ_ONLY = frozenset({Access.PULL})


@dataclass(frozen=True, slots=True)
class Caller:
    """An account that proved who it is."""

    name: str
    access: frozenset[Access]

    def authorise(self, endpoint: Endpoint) -> Endpoint:
        """What the caller may do of it; raises DENIED unless the caller has what the endpoint needs.

        A mount from where the caller may not pull is an ordinary upload: the answer must not tell what is there.
        """
        if not self.access & endpoint.access:
            needed = " or ".join(sorted(access.value for access in endpoint.access))
            raise RegistryError(Problem.DENIED, f"this account may not {needed} here")
        if isinstance(endpoint, MountBlob) and Access.PULL not in self.access:
            return StartUpload(endpoint.name)
        return endpoint


@dataclass(frozen=True, slots=True)
class _Account:
    name: str
    fingerprint: bytes
    access: frozenset[Access]


class Accounts:
    """The accounts of the settings. None at all: the door is closed."""

    def __init__(self, settings: Settings) -> None:
        self._accounts: list[_Account] = []
        self._add("USERNAME", settings.username, "PASSWORD", settings.password, _FULL)
        self._add(
            "READONLY_USERNAME",
            settings.readonly_username,
            "READONLY_PASSWORD",
            settings.readonly_password,
            _READ_ONLY,
        )
        if not self._accounts:
            log(
                "no-credentials-configured",
                help="every request is refused until USERNAME and PASSWORD are set: npx wrangler secret put USERNAME "
                "--env production, then the same for PASSWORD",
            )

    def _add(self, name_setting: str, name: str, secret_setting: str, secret: str, access: frozenset[Access]) -> None:
        if name and secret and ":" not in name:
            self._accounts.append(_Account(name, _fingerprint(name, secret), access))
        elif ":" in name:
            log("setting-ignored", setting=name_setting, help="a user name cannot contain a colon (RFC 7617)")
        elif name or secret:
            missing = secret_setting if name else name_setting
            log("setting-ignored", setting=name_setting if name else secret_setting, help=f"{missing} is not set")

    def authenticate(self, authorization: str | None) -> Caller:
        """The caller that an Authorization header names; raises UNAUTHORIZED with the challenge.

        Every account is compared, whatever the name, so that the time tells nothing about who exists.
        """
        if authorization is None:
            raise RegistryError(Problem.UNAUTHORIZED, headers=_CHALLENGE)
        given = _fingerprint(*_basic_credentials(authorization))
        caller = None
        for account in self._accounts:
            if hmac.compare_digest(given, account.fingerprint):
                caller = Caller(account.name, account.access)
        if caller is None:
            raise RegistryError(Problem.UNAUTHORIZED, "wrong user name or password", headers=_CHALLENGE)
        return caller


def _fingerprint(name: str, secret: str) -> bytes:
    """Of equal length for all credentials, so that comparing two takes the same time whatever they are."""
    return hashlib.sha256(f"{name}:{secret}".encode()).digest()


def _basic_credentials(authorization: str) -> tuple[str, str]:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        raise RegistryError(Problem.UNAUTHORIZED, "this registry takes Basic credentials", headers=_CHALLENGE)
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        raise RegistryError(
            Problem.UNAUTHORIZED, "the Authorization header is not base64 of user:password in UTF-8", headers=_CHALLENGE
        ) from None
    name, _, secret = decoded.partition(":")
    return name, secret
