"""The port to the runtime's cryptography: the algorithms that neither the standard library nor PyJWT alone has."""

from dataclasses import dataclass
from typing import Protocol

# The supported signature algorithms of RFC 7518 (EdDSA: RFC 8037, only with Ed25519).
ALGORITHMS = frozenset({"ES256", "ES384", "RS256", "PS256", "EdDSA"})

# Web Crypto in Workers refuses more iterations.
PBKDF2_ITERATIONS = 100_000
PBKDF2_BYTES = 32


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies signatures of one algorithm. `registry.access.public_keys` makes it."""

    algorithm: str
    key_id: str | None
    # The members of a JWK that are the key itself (RFC 7517), or DER (SubjectPublicKeyInfo, RFC 5280).
    material: tuple[tuple[str, str], ...] | bytes


class Crypto(Protocol):
    """The runtime's algorithms."""

    async def verify(self, key: PublicKey, signature: bytes, signed: bytes) -> bool:
        """Whether the signature is valid. Raises ValueError when the key's material is not a key of its algorithm."""
        ...

    async def pbkdf2(self, password: bytes, salt: bytes) -> bytes:
        """PBKDF2 with HMAC-SHA-256 (RFC 8018), PBKDF2_ITERATIONS and PBKDF2_BYTES."""
        ...
