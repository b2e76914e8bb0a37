"""Makes keys and signed tokens, as an operator or an issuer does."""

import base64
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.fakes.client import START

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
CLAIMS = {"username": "v0", "account_id": "1", "capabilities": ["pull", "push"], "exp": int(START) + 3600}

_CURVES: dict[str, ec.EllipticCurve] = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}


def private_key(algorithm: str, which: int = 0) -> PrivateKey:
    """A private key, always the same for the same arguments; `which` numbers several."""
    return _make_key(algorithm, which)


@cache
def _make_key(algorithm: str, which: int) -> PrivateKey:
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm.startswith("ES"):
        return ec.generate_private_key(_CURVES[algorithm])
    return rsa.generate_private_key(65537, 2048)


def jwk(algorithm: str, which: int = 0, **members: object) -> dict[str, Any]:
    """The public key as a JWK, with further members."""
    key: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(
        private_key(algorithm, which).public_key(), as_dict=True
    )
    named = {"alg": algorithm} if algorithm == "PS256" else {}
    return {**key, **named, **members}


def pem(algorithm: str) -> str:
    """The public key as PEM."""
    return private_key(algorithm).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def setting(value: object) -> str:
    """The base64 value for JWT_REGISTRY_TOKENS_PUBLIC_KEY."""
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.b64encode(text.encode()).decode()


def sign(
    claims: Mapping[str, object] | None = None,
    algorithm: str = "ES256",
    which: int = 0,
    header: Mapping[str, object] | None = None,
    **more: object,
) -> str:
    """A signed token; `claims` replace CLAIMS, `more` adds to them or overrides them."""
    payload = {**(CLAIMS if claims is None else claims), **more}
    return jwt.encode(payload, private_key(algorithm, which), algorithm, headers=dict(header or {}))


def encode(value: object) -> str:
    """A segment of a token: base64url of bytes, or of a value as JSON."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
