"""JSON Web Tokens (RFC 7519) that the operator or an issuer signed: parsed as untrusted input, then verified.

PyJWT parses them and validates their claims. The runtime's cryptography verifies the signature, with the algorithm of
the key, whatever the token's header says (RFC 8725, section 3.1).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from registry.ports.crypto import Crypto, PublicKey
from registry.spec.errors import Problem, RegistryError
from registry.spec.untrusted_json import read_json
from registry.telemetry.log import log

MAX_TOKEN = 12 * 1024  # characters
_NAMES = {"EdDSA": ("EdDSA", "Ed25519")}  # algorithms with two names (RFC 8037, RFC 9864)
LEEWAY = 30  # seconds by which clocks may differ


@dataclass(frozen=True, slots=True)
class Token:
    """A token that is not verified yet. `read_token` makes it."""

    text: str
    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    signature: bytes

    @property
    def signed(self) -> bytes:
        """The bytes that the signature covers."""
        return self.text.rpartition(".")[0].encode()

    @property
    def issuer(self) -> object:
        """The claim `iss`, not verified."""
        return self.claims.get("iss")


def read_token(text: str) -> Token | None:
    """Parse a token in compact form; None if the text is not a token."""
    if len(text) > MAX_TOKEN or text.count(".") != 2 or not text.isascii():
        return None
    try:
        for segment in text.split(".")[:2]:
            # PyJWT parses the segments, too. It must get only JSON that this reader accepts.
            read_json(jwt.utils.base64url_decode(segment), MAX_TOKEN)
        token = jwt.decode_complete(text, options={"verify_signature": False})
    except (jwt.InvalidTokenError, ValueError):
        return None
    return Token(text, token["header"], token["payload"], token["signature"])


async def verify(
    crypto: Crypto, token: Token, key: PublicKey | None, audience: str | None, issuer: str | None = None
) -> Mapping[str, Any]:
    """Verify a token and return its claims. Raises UNAUTHORIZED, with details only if the signature is valid.

    `audience` and `issuer` are checked if they are given. `exp` is always required.
    """
    try:
        # The header's `alg` selects nothing, but a token whose `alg` differs from the key's was not made for this key.
        is_named = key is not None and token.header.get("alg") in _NAMES.get(key.algorithm, (key.algorithm,))
        is_right = key is not None and is_named and await crypto.verify(key, token.signature, token.signed)
    except ValueError as error:
        log("key-unusable", algorithm=key.algorithm if key else None, error=str(error))
        is_right = False
    if not is_right:
        raise RegistryError(Problem.UNAUTHORIZED, "the token's signature is wrong, or this registry lacks its key")
    options: jwt.types.Options = {
        "verify_signature": False,
        "verify_exp": True,
        "verify_nbf": True,
        "verify_iat": True,
        "verify_sub": True,
        "verify_aud": audience is not None,
        "verify_iss": issuer is not None,
        "require": ["exp"],
    }
    try:
        claims: Mapping[str, Any] = jwt.decode(
            token.text, options=options, audience=audience, issuer=issuer, leeway=LEEWAY
        )
    except (jwt.InvalidTokenError, TypeError, ValueError, OverflowError) as error:  # the latter: exp is no number
        raise RegistryError(Problem.UNAUTHORIZED, f"the token is not valid: {error}") from None
    return claims
