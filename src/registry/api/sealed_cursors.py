"""Encrypted pagination cursors for the catalogue: a page may end at a repository that the caller must not see.

The construction is a synthetic initialisation vector (the idea of RFC 5297) with HMAC-SHA-256. The vector
authenticates the text, and seeds the key stream that encrypts it.
"""

import hmac

_MARK = "~"  # no repository name has this character
_VECTOR = 16  # bytes
_BLOCK = 32  # bytes of HMAC-SHA-256
_PADDED = 256  # bytes: texts are padded to a multiple, so that a cursor does not reveal the length of a name


def seal(key: bytes, text: str) -> str:
    """Encrypt and authenticate `text`, which must not contain NUL."""
    data = text.encode()
    data += b"\0" * (-len(data) % _PADDED)
    vector = _vector(key, data)
    return _MARK + (vector + _hide(key, vector, data)).hex()


def is_sealed(text: str) -> bool:
    """Whether the text has the form of a sealed cursor."""
    return text.startswith(_MARK)


def unseal(key: bytes, sealed: str) -> str | None:
    """Decrypt a sealed cursor; None when it was not sealed with this key."""
    try:
        raw = bytes.fromhex(sealed.removeprefix(_MARK))
    except ValueError:
        return None
    vector, hidden = raw[:_VECTOR], raw[_VECTOR:]
    data = _hide(key, vector, hidden)
    return data.rstrip(b"\0").decode() if hmac.compare_digest(vector, _vector(key, data)) else None


def _vector(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, b"vector" + data, "sha256")[:_VECTOR]


def _hide(key: bytes, vector: bytes, data: bytes) -> bytes:
    blocks = (
        hmac.digest(key, b"stream" + vector + index.to_bytes(4, "big"), "sha256")
        for index in range(-(-len(data) // _BLOCK))
    )
    return bytes(byte ^ mask for byte, mask in zip(data, b"".join(blocks), strict=False))
