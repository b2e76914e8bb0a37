"""JSON Web Tokens (RFC 7519) that somebody else signed: read with suspicion, then verified.

PyJWT parses them and validates their claims. The signature is verified by the runtime's cryptography, with an algorithm
that the key has, whatever the token says of itself (RFC 8725, section 3.1).
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
_NAMES = {"EdDSA": ("EdDSA", "Ed25519")}  # of an algorithm that has two (RFC 8037, RFC 9864)
LEEWAY = 30  # seconds that two clocks may differ


@dataclass(frozen=True, slots=True)
class Token:
    """A token of which nothing is proved yet. `read_token` makes it."""

    text: str
    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    signature: bytes

    @property
    def signed(self) -> bytes:
        """What the signature is over."""
        return self.text.rpartition(".")[0].encode()

    @property
    def issuer(self) -> object:
        """Who claims to have issued it."""
        return self.claims.get("iss")


def read_token(text: str) -> Token | None:
    """Read a token in compact form; None when the text is none."""
    if len(text) > MAX_TOKEN or text.count(".") != 2 or not text.isascii():
        return None
    try:
        for segment in text.split(".")[:2]:
            # PyJWT parses them, too: only what this reader took.
            read_json(jwt.utils.base64url_decode(segment), MAX_TOKEN)
        token = jwt.decode_complete(text, options={"verify_signature": False})
    except (jwt.InvalidTokenError, ValueError):
        return None
    return Token(text, token["header"], token["payload"], token["signature"])


async def verify(
    crypto: Crypto, token: Token, key: PublicKey | None, audience: str | None, issuer: str | None = None
) -> Mapping[str, Any]:
    """The claims, now proved. Raises UNAUTHORIZED; it says why only to who has a token with a right signature.

    `audience` and `issuer` are demanded when they are given. `exp` is always demanded.
    """
    try:
        # What the token says of itself decides nothing, but one that says something else was made for somebody else.
        is_named = key is not None and token.header.get("alg") in _NAMES.get(key.algorithm, (key.algorithm,))
        is_right = key is not None and is_named and await crypto.verify(key, token.signature, token.signed)
    except ValueError as error:
        log("key-unusable", algorithm=key.algorithm if key else None, error=str(error))
        is_right = False
    if not is_right:
        raise RegistryError(Problem.UNAUTHORIZED, "the token's signature is wrong, or its key is not known here")
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
