"""The bucket's secret, from which all signing keys of the registry derive. The first request that needs it makes it."""

import hmac

from registry.ports.platform import Platform
from registry.ports.storage import ABSENT, Attributes
from registry.spec.errors import Problem, RegistryError
from registry.storage import bucket_format, keys

_SECRET_BYTES = 32
# After which an isolate reads the secret again. Deleting the secret revokes all that was signed, after this time.
REREAD_SECONDS = 60


class SigningKey:
    """Caches the secret for REREAD_SECONDS; `read` bypasses the cache."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._secret: bytes | None = None
        self._read_at = 0.0  # seconds since the epoch
        self._generation = 0

    async def secret(self) -> bytes:
        """The secret, as read within the last REREAD_SECONDS."""
        if self._secret is None or self._platform.now() - self._read_at >= REREAD_SECONDS:
            return await self.read()
        return self._secret

    async def generation(self) -> int:
        """A number that changes with the secret."""
        await self.secret()
        return self._generation

    async def derive(self, purpose: str) -> bytes:
        """A key for one purpose: its signatures are invalid for any other purpose."""
        return hmac.digest(await self.secret(), purpose.encode(), "sha256")

    async def read(self) -> bytes:
        """Read the secret from the bucket. Make a new one if it is missing, as it is after the operator deleted it."""
        storage, now = self._platform.storage, self._platform.now()
        stored = await storage.get(keys.SIGNING_KEY)
        if stored is None:
            await bucket_format.note_if_empty(self._platform)
            fresh = self._platform.random_hex(_SECRET_BYTES).encode()
            nonce = Attributes(metadata={"nonce": self._platform.random_hex(8)})
            if await storage.put(keys.SIGNING_KEY, fresh, nonce, only_if=ABSENT) is not None:
                return self._keep(fresh, now)
            stored = await storage.get(keys.SIGNING_KEY)
            if stored is None:
                raise RegistryError(Problem.UNAVAILABLE)
        return self._keep(await stored.body.read(2 * _SECRET_BYTES), now)

    def _keep(self, secret: bytes, read_at: float) -> bytes:
        if secret != self._secret:
            self._generation += 1
        self._secret, self._read_at = secret, read_at  # the start of a read that succeeded
        return secret
