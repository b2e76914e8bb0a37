"""Accounts with a name and a password or a generated token, from the settings.

A secret stands in the settings as `sha256:<hex>` of a generated token, which nobody can guess, or as
`pbkdf2-sha256:100000:<salt>:<hash>` (base64url) of a password; `registry-token hash` makes both.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from registry.access.permissions import Permissions, parse_permissions
from registry.ports.crypto import PBKDF2_BYTES, PBKDF2_ITERATIONS, Crypto
from registry.setting_lists import parse_list

_SHA256 = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII)
_PBKDF2 = re.compile(rf"pbkdf2-sha256:{PBKDF2_ITERATIONS}:([A-Za-z0-9_-]+):([A-Za-z0-9_-]+)", re.ASCII)
_MIN_SALT = 8  # bytes
_MEMBERS = {"name", "secret", "permissions"}


@dataclass(frozen=True, slots=True)
class Account:
    """`digest` is of the secret: SHA-256, or with `salt` PBKDF2."""

    name: str
    permissions: Permissions
    digest: bytes
    salt: bytes | None = None


def plain_account(name: str, secret: str, permissions: Permissions) -> Account:
    """An account whose secret itself stands in the settings. Raises ValueError with a sentence."""
    return Account(_parse_name(name), permissions, _sha256(secret))


def parse_accounts(text: str) -> tuple[Account, ...]:
    """The value of ACCOUNTS_JSON. Raises ValueError with a sentence that repeats no secret."""
    return parse_list(text, "account", _parse_account, lambda account: account.name)


def _parse_account(entry: object) -> Account:
    if not isinstance(entry, Mapping) or set(entry) != _MEMBERS:
        raise ValueError(f"it is an object with exactly {', '.join(sorted(_MEMBERS))}")
    name, permissions = _parse_name(entry["name"]), parse_permissions(entry["permissions"])
    secret = entry["secret"] if isinstance(entry["secret"], str) else ""
    if found := _SHA256.fullmatch(secret):
        return Account(name, permissions, bytes.fromhex(found[1]))
    if found := _PBKDF2.fullmatch(secret):
        salt, digest = _decode(found[1]), _decode(found[2])
        if len(salt) >= _MIN_SALT and len(digest) == PBKDF2_BYTES:
            return Account(name, permissions, digest, salt)
    raise ValueError("secret is no hash that `registry-token hash` makes")


def _parse_name(name: object) -> str:
    if not isinstance(name, str) or not name or ":" in name or not name.isprintable():
        raise ValueError("a user name is not empty and contains no colon (RFC 7617) and no control character")
    return name


def _decode(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        return b""


class Accounts:
    """All accounts. Whether a name exists cannot be told by the time that a wrong password takes."""

    def __init__(self, accounts: Iterable[Account], crypto: Crypto) -> None:
        self._plain = [account for account in accounts if account.salt is None]
        self._salted = {account.name: account for account in accounts if account.salt is not None}
        self._crypto = crypto

    @property
    def has_stretched(self) -> bool:
        """Whether a secret takes a PBKDF2."""
        return bool(self._salted)

    def names(self) -> frozenset[str]:
        """Every name."""
        return frozenset({account.name for account in self._plain} | self._salted.keys())

    def find_plain(self, name: str, secret: str) -> Account | None:
        """The account with this name and secret, or None, among those that take no PBKDF2: all are compared."""
        given_name, given = _sha256(name), _sha256(secret)
        found = None
        for account in self._plain:
            is_name = hmac.compare_digest(given_name, _sha256(account.name))
            if hmac.compare_digest(given, account.digest) and is_name:
                found = account
        return found

    async def find_stretched(self, name: str, secret: str) -> Account | None:
        """As `find_plain`, among the others: one PBKDF2, whether the name is known or not; there is one of them."""
        account = self._salted.get(name)
        stand_in = account or next(iter(self._salted.values()))
        derived = await self._crypto.pbkdf2(secret.encode(), stand_in.salt or b"")
        return account if hmac.compare_digest(derived, stand_in.digest) and account is stand_in else None

    def find_bound(self, name: str, binding: str, key: bytes) -> Account | None:
        """The account of a refresh token: as long as its secret is what it was when the token was issued."""
        for account in (*self._plain, *self._salted.values()):
            if account.name == name and hmac.compare_digest(binding, bind(account, key)):
                return account
        return None


def bind(account: Account, key: bytes) -> str:
    """What a refresh token holds of its account's secret: enough to see that it was changed, nothing else."""
    return hmac.digest(key, f"refresh {account.name} ".encode() + account.digest, "sha256").hex()


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
