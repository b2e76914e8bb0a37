"""Cursors that tell nothing: the catalogue may stop at a name that its caller must not learn.

A synthetic initialisation vector (the idea of RFC 5297) with HMAC-SHA-256 for both of its halves: the vector
authenticates the text, and keys the stream that hides it.
"""

import hmac

_MARK = "~"  # in no repository name
_VECTOR = 16  # bytes
_BLOCK = 32  # bytes of HMAC-SHA-256
_PADDED = 256  # bytes, or a multiple of them: the length of a cursor does not tell that of a name


def seal(key: bytes, text: str) -> str:
    """`text`, which has no NUL, readable with `key` only."""
    data = text.encode()
    data += b"\0" * (-len(data) % _PADDED)
    vector = _vector(key, data)
    return _MARK + (vector + _hide(key, vector, data)).hex()


def is_sealed(text: str) -> bool:
    """Whether it looks like what `seal` makes."""
    return text.startswith(_MARK)


def unseal(key: bytes, sealed: str) -> str | None:
    """The text; None when somebody else made it up."""
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
