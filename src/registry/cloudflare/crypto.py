"""Implements `registry.ports.crypto.Crypto` with Web Crypto."""

from typing import Any

import js
from pyodide.ffi import JsException, to_js

from registry.cloudflare.r2 import as_js
from registry.ports.crypto import PBKDF2_BYTES, PBKDF2_ITERATIONS, PublicKey

# For each signature algorithm (RFC 7518, RFC 8037): the algorithm arguments of `importKey` and of `verify`.
_ALGORITHMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ES256": ({"name": "ECDSA", "namedCurve": "P-256"}, {"name": "ECDSA", "hash": "SHA-256"}),
    "ES384": ({"name": "ECDSA", "namedCurve": "P-384"}, {"name": "ECDSA", "hash": "SHA-384"}),
    "RS256": ({"name": "RSASSA-PKCS1-v1_5", "hash": "SHA-256"}, {"name": "RSASSA-PKCS1-v1_5"}),
    "PS256": ({"name": "RSA-PSS", "hash": "SHA-256"}, {"name": "RSA-PSS", "saltLength": 32}),
    "EdDSA": ({"name": "Ed25519"}, {"name": "Ed25519"}),
}
_NOT_EXTRACTABLE = False


class WebCrypto:
    """Calls `crypto.subtle`."""

    async def verify(self, key: PublicKey, signature: bytes, signed: bytes) -> bool:
        key_algorithm, algorithm = _ALGORITHMS[key.algorithm]
        if isinstance(key.material, bytes):
            form, material = "spki", to_js(key.material)
        else:
            form, material = "jwk", as_js(dict(key.material))
        subtle = js.crypto.subtle
        try:
            imported = await subtle.importKey(form, material, as_js(key_algorithm), _NOT_EXTRACTABLE, to_js(["verify"]))
        except JsException as error:
            raise ValueError(str(error)) from None
        try:
            return bool(await subtle.verify(as_js(algorithm), imported, to_js(signature), to_js(signed)))
        except JsException:  # workerd throws for an Ed25519 signature of the wrong length
            return False

    async def pbkdf2(self, password: bytes, salt: bytes) -> bytes:
        subtle = js.crypto.subtle
        key = await subtle.importKey("raw", to_js(password), "PBKDF2", _NOT_EXTRACTABLE, to_js(["deriveBits"]))
        algorithm = {"name": "PBKDF2", "hash": "SHA-256", "salt": to_js(salt), "iterations": PBKDF2_ITERATIONS}
        derived: bytes = (await subtle.deriveBits(as_js(algorithm), key, 8 * PBKDF2_BYTES)).to_bytes()
        return derived
