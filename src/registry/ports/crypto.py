"""The port to the runtime's cryptography: what neither the standard library has nor PyJWT by itself."""

from dataclasses import dataclass
from typing import Protocol

# The signature algorithms of RFC 7518 (EdDSA: RFC 8037, with Ed25519 alone) that are verified.
ALGORITHMS = frozenset({"ES256", "ES384", "RS256", "PS256", "EdDSA"})

# Web Crypto in Workers refuses more.
PBKDF2_ITERATIONS = 100_000
PBKDF2_BYTES = 32


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies signatures of one algorithm. Made by `registry.access.public_keys`."""

    algorithm: str
    key_id: str | None
    # The members of a JWK that make the key (RFC 7517), or DER (SubjectPublicKeyInfo, RFC 5280).
    material: tuple[tuple[str, str], ...] | bytes


class Crypto(Protocol):
    """What runs the algorithms."""

    async def verify(self, key: PublicKey, signature: bytes, signed: bytes) -> bool:
        """Whether the signature is right. Raises ValueError when the key's material is no key of its algorithm."""
        ...

    async def pbkdf2(self, password: bytes, salt: bytes) -> bytes:
        """PBKDF2 with HMAC-SHA-256 (RFC 8018), PBKDF2_ITERATIONS and PBKDF2_BYTES."""
        ...
