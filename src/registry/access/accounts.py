"""Accounts from the settings: a name with a password or a generated token.

ACCOUNTS_JSON has a hash of each secret: `sha256:<hex>` of a generated token, which cannot be guessed, or
`pbkdf2-sha256:100000:<salt>:<hash>` (base64url) of a password. `registry-token hash` makes both.
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
    """An account. `digest` is the hash of its secret: PBKDF2 if there is a `salt`, otherwise SHA-256."""

    name: str
    permissions: Permissions
    digest: bytes
    salt: bytes | None = None


def plain_account(name: str, secret: str, permissions: Permissions) -> Account:
    """Make an account whose secret is in the settings unhashed. Raises ValueError with a sentence."""
    return Account(_parse_name(name), permissions, _sha256(secret))


def parse_accounts(text: str) -> tuple[Account, ...]:
    """Parse the value of ACCOUNTS_JSON. Raises ValueError with a sentence that contains no secret."""
    return parse_list(text, "account", _parse_account, lambda account: account.name)


def _parse_account(entry: object) -> Account:
    if not isinstance(entry, Mapping) or set(entry) != _MEMBERS:
        raise ValueError(f"must be an object with exactly {', '.join(sorted(_MEMBERS))}")
    name, permissions = _parse_name(entry["name"]), parse_permissions(entry["permissions"])
    secret = entry["secret"] if isinstance(entry["secret"], str) else ""
    if found := _SHA256.fullmatch(secret):
        return Account(name, permissions, bytes.fromhex(found[1]))
    if found := _PBKDF2.fullmatch(secret):
        salt, digest = _decode(found[1]), _decode(found[2])
        if len(salt) >= _MIN_SALT and len(digest) == PBKDF2_BYTES:
            return Account(name, permissions, digest, salt)
    raise ValueError("secret is not a hash: make one with `registry-token hash`")


def _parse_name(name: object) -> str:
    if not isinstance(name, str) or not name or ":" in name or not name.isprintable():
        raise ValueError("a user name must not be empty; it has no colon (RFC 7617) and no control character")
    return name


def _decode(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        return b""


class Accounts:
    """All accounts. The time to refuse a wrong password does not reveal whether the account exists."""

    def __init__(self, accounts: Iterable[Account], crypto: Crypto) -> None:
        self._plain = [account for account in accounts if account.salt is None]
        self._salted = {account.name: account for account in accounts if account.salt is not None}
        self._crypto = crypto

    @property
    def has_stretched(self) -> bool:
        """Whether any account's secret needs a PBKDF2."""
        return bool(self._salted)

    def names(self) -> frozenset[str]:
        """The names of all accounts."""
        return frozenset({account.name for account in self._plain} | self._salted.keys())

    def find_plain(self, name: str, secret: str) -> Account | None:
        """Find the account with this name and secret among those without PBKDF2. Compares all, in constant time."""
        given_name, given = _sha256(name), _sha256(secret)
        found = None
        for account in self._plain:
            is_name = hmac.compare_digest(given_name, _sha256(account.name))
            if hmac.compare_digest(given, account.digest) and is_name:
                found = account
        return found

    async def find_stretched(self, name: str, secret: str) -> Account | None:
        """As `find_plain`, for the accounts with PBKDF2: exactly one PBKDF2, even for an unknown name.

        Call it only if `has_stretched`.
        """
        account = self._salted.get(name)
        stand_in = account or next(iter(self._salted.values()))
        derived = await self._crypto.pbkdf2(secret.encode(), stand_in.salt or b"")
        return account if hmac.compare_digest(derived, stand_in.digest) and account is stand_in else None

    def find_bound(self, name: str, binding: str, key: bytes) -> Account | None:
        """The account of a refresh token; None if its secret changed after the token was issued."""
        for account in (*self._plain, *self._salted.values()):
            if account.name == name and hmac.compare_digest(binding, bind(account, key)):
                return account
        return None


def bind(account: Account, key: bytes) -> str:
    """A keyed hash of the account's secret for a refresh token, which reveals only whether the secret changed."""
    return hmac.digest(key, f"refresh {account.name} ".encode() + account.digest, "sha256").hex()


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
