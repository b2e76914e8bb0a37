"""Authenticated upload session ids, with which starting an upload needs no R2 call.

An id is `<uuid>.<issued>.<mac>`: a UUID (the spec wants one in the location), the time of issue in seconds since the
epoch, in hex, and an HMAC of both and the repository name. Replaying the id of a closed session does no harm, because
no stored data depends on it.
"""

import hmac
import re
from uuid import UUID

from registry.access.signing_key import SigningKey
from registry.ports.platform import Platform
from registry.spec.errors import Problem, RegistryError
from registry.spec.names import RepositoryName

SESSION_SECONDS = 24 * 3600  # the lifetime of a session; the sweeper spares new data objects for longer
_MAC_DIGITS = 32  # hex digits: 128 bits
_ID = re.compile(
    r"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\.([0-9a-f]{1,12})\.([0-9a-f]{32})", re.ASCII
)


class Sessions:
    """Issues and verifies session ids."""

    def __init__(self, platform: Platform, key: SigningKey) -> None:
        self._platform = platform
        self._key = key

    async def issue(self, name: RepositoryName) -> str:
        """Return a new session id for uploads to `name`."""
        secret = await self._key.secret()
        uuid = new_uuid(self._platform)
        issued = f"{int(self._platform.now()):x}"
        return f"{uuid}.{issued}.{_mac(secret, uuid, issued, name)}"

    async def verify(self, name: RepositoryName, session: str) -> str:
        """Return the UUID of a session of `name`.

        Raises BLOB_UPLOAD_UNKNOWN for an id that is expired, forged, or of another repository.
        """
        match = _ID.fullmatch(session)
        if match is None:
            raise RegistryError(Problem.UPLOAD_UNKNOWN)
        uuid, issued, mac = match.groups()
        age = self._platform.now() - int(issued, 16)
        if not 0 <= age + 1 <= SESSION_SECONDS:  # 1: the clocks of two machines may differ
            raise RegistryError(Problem.UPLOAD_UNKNOWN, "this upload session has expired: start a new one")
        if hmac.compare_digest(mac, _mac(await self._key.secret(), uuid, issued, name)):
            return uuid
        # Another isolate may have signed with a key that was created after this isolate read its own.
        if not hmac.compare_digest(mac, _mac(await self._key.read(), uuid, issued, name)):
            raise RegistryError(Problem.UPLOAD_UNKNOWN)
        return uuid


def new_uuid(platform: Platform) -> str:
    """Return a random UUID (RFC 9562, version 4)."""
    return str(UUID(bytes=bytes.fromhex(platform.random_hex(16)), version=4))


def _mac(secret: bytes, uuid: str, issued: str, name: RepositoryName) -> str:
    message = f"{uuid}.{issued}.{name}".encode()
    return hmac.digest(secret, message, "sha256").hex()[:_MAC_DIGITS]
