"""Parser for public keys of the operator and of issuers: JWK, JWK set (RFC 7517), PEM (RFC 7468).

Each key verifies signatures of one algorithm only. The key determines the algorithm, never the token.
"""

import base64
import binascii
import re
from collections.abc import Mapping

from registry.ports.crypto import ALGORITHMS, PublicKey
from registry.setting_lists import MAX_SETTING
from registry.spec.untrusted_json import read_json

# Key type and curve -> the algorithm. An RSA key is for the first of _RSA, unless its `alg` names the second.
_BY_CURVE = {("EC", "P-256"): "ES256", ("EC", "P-384"): "ES384", ("OKP", "Ed25519"): "EdDSA"}
_RSA = ("RS256", "PS256")
# The members that make up the key. Web Crypto might refuse a key for its other members (`key_ops`, `ext`, …).
_MEMBERS = {"EC": ("crv", "x", "y"), "OKP": ("crv", "x"), "RSA": ("n", "e")}
_MIN_MODULUS = 256  # bytes: RFC 7518 demands at least 2,048 bits

_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----\s*", re.ASCII)
# A SubjectPublicKeyInfo begins with two sequences and the identifier of its algorithm (RFC 5480, 8017, 8410).
_DER = re.compile(rb"\x30(?:[\x00-\x7f]|\x81.|\x82..)\x30.(?P<identifier>\x06.*)", re.DOTALL)
_IDENTIFIERS = {
    bytes.fromhex("06072a8648ce3d020106082a8648ce3d030107"): "ES256",
    bytes.fromhex("06072a8648ce3d020106052b81040022"): "ES384",
    bytes.fromhex("06092a864886f70d010101"): "RS256",
    bytes.fromhex("06032b6570"): "EdDSA",
}


def parse_public_keys(setting: str) -> tuple[PublicKey, ...]:
    """Parse a setting: a JWK, a JWK set or a PEM, in base64 or as plain text. Raises ValueError with a sentence."""
    text = setting.strip()
    if not text.startswith(("{", "-----")):
        try:
            text = _decode(text).decode().strip()
        except ValueError:
            raise ValueError("must be the base64 of a JWK, of a JWK set, or of a PEM") from None
    if text.startswith("-----"):
        return (_from_pem(text),)
    try:
        value = read_json(text, MAX_SETTING)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError("must be the base64 of a JWK, of a JWK set, or of a PEM")
    if "keys" not in value:
        return (_from_jwk(value),)
    if not isinstance(value["keys"], list) or not value["keys"]:
        raise ValueError("the JWK set has no keys")
    return tuple(_from_jwk(key) for key in value["keys"])


def parse_key_set(value: object) -> tuple[PublicKey, ...]:
    """Parse an issuer's JWK set; ignores keys that are not supported. Raises ValueError."""
    if not isinstance(value, dict) or not isinstance(value.get("keys"), list):
        raise ValueError("the answer is not a JWK set")
    keys = []
    for key in value["keys"]:
        try:
            keys.append(_from_jwk(key))
        except ValueError:
            continue
    return tuple(keys)


def pick(keys: tuple[PublicKey, ...], key_id: object) -> PublicKey | None:
    """The key that a token's `kid` names. A single key also matches if the token or the key has no `kid`."""
    if key_id is None:
        return keys[0] if len(keys) == 1 else None
    named = [key for key in keys if key.key_id == key_id]
    if named:
        return named[0]
    return keys[0] if len(keys) == 1 and keys[0].key_id is None else None


def _from_jwk(value: object) -> PublicKey:
    if not isinstance(value, Mapping):
        raise ValueError("a JWK must be a JSON object")
    if "d" in value or value.get("kty") == "oct":
        raise ValueError("this is a secret key: use the public key")
    if value.get("use", "sig") != "sig" or "verify" not in value.get("key_ops", ["verify"]):
        raise ValueError("this key is not for verifying signatures: see its use and key_ops")
    algorithm = _algorithm(value)
    kind = value.get("kty")
    members = {name: value.get(name) for name in ("kty", *_MEMBERS.get(str(kind), ()))}
    material = tuple((name, member) for name, member in members.items() if isinstance(member, str))
    if len(material) < len(members):
        raise ValueError("a member of the JWK is missing")
    if kind == "RSA" and len(_decode(value["n"]).lstrip(b"\0")) < _MIN_MODULUS:
        raise ValueError("an RSA key has 2048 bits or more")
    key_id = value.get("kid")
    return PublicKey(algorithm, key_id if isinstance(key_id, str) else None, material)


def _algorithm(value: Mapping[str, object]) -> str:
    named = value.get("alg")
    if value.get("kty") == "RSA":
        algorithm = "RS256" if named is None else named
        fits = algorithm in _RSA
    else:
        algorithm = _BY_CURVE.get((str(value.get("kty")), str(value.get("crv"))))
        # RFC 9864 names the algorithm after its curve.
        fits = algorithm is not None and named in (None, algorithm, *(["Ed25519"] if algorithm == "EdDSA" else []))
    if not fits or not isinstance(algorithm, str):
        raise ValueError(f"keys are for {', '.join(sorted(ALGORITHMS))}")
    return algorithm


def _from_pem(text: str) -> PublicKey:
    found = _PEM.fullmatch(text)
    if found is None:
        raise ValueError("the PEM must be one block BEGIN PUBLIC KEY")
    der = _decode("".join(found[1].split()))
    identifier = _DER.match(der)
    if identifier is not None:
        for prefix, algorithm in _IDENTIFIERS.items():
            if identifier["identifier"].startswith(prefix):
                if algorithm == "RS256" and len(der) < _MIN_MODULUS:
                    raise ValueError("an RSA key has 2048 bits or more")
                return PublicKey(algorithm, None, der)
    raise ValueError(f"keys are for {', '.join(sorted(ALGORITHMS))}")


def _decode(text: str) -> bytes:
    """Base64 of either alphabet (RFC 4648), with or without padding."""
    try:
        standard = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except binascii.Error:
        raise ValueError("not base64") from None
