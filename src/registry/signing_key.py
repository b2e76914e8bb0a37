"""The bucket's secret, from which every key that the registry signs with is derived. Made by the first who needs it."""

import hmac

from registry import keys, migration
from registry.errors import Problem, RegistryError
from registry.platform import Platform
from registry.storage import ABSENT, Attributes

_SECRET_BYTES = 32


class SigningKey:
    """Reads the secret once in the life of an isolate."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._secret: bytes | None = None
        self.read_at = 0.0  # seconds since the epoch

    async def secret(self) -> bytes:
        """The secret, as it was read last."""
        return self._secret or await self.read()

    async def derive(self, purpose: str) -> bytes:
        """A key for one purpose: what is signed with it means nothing to any other."""
        return hmac.digest(await self.secret(), purpose.encode(), "sha256")

    async def read(self) -> bytes:
        """The secret as it is now: whoever deletes the object voids everything that was signed."""
        storage = self._platform.storage
        self.read_at = self._platform.now()
        stored = await storage.get(keys.SIGNING_KEY)
        if stored is None:
            await migration.note_if_empty(self._platform)
            fresh = self._platform.random_hex(_SECRET_BYTES).encode()
            nonce = Attributes(metadata={"nonce": self._platform.random_hex(8)})
            if await storage.put(keys.SIGNING_KEY, fresh, nonce, only_if=ABSENT) is not None:
                self._secret = fresh
                return fresh
            stored = await storage.get(keys.SIGNING_KEY)
            if stored is None:
                raise RegistryError(Problem.UNAVAILABLE)
        self._secret = await stored.body.read(2 * _SECRET_BYTES)
        return self._secret
