"""A compact form of a manifest's references. Its metadata has them, so that garbage collection needs only a listing.

A digest is truncated to its first 96 bits. A collision is harmless: an object is kept that could be deleted.
"""

import base64
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from registry.spec.manifest_format import Manifest

SHORT = 16  # characters of a truncated digest: base64url of 12 bytes
HEX_DIGITS = 24  # of a digest that are kept
# Characters; about 100 digests. R2 allows an object 2,048 bytes of metadata in all (docs/adr/0005).
MAX_LENGTH = 1_650
_SEPARATOR = "."


@dataclass(frozen=True, slots=True)
class References:
    """Truncated digests of blobs, and of an index's manifests (`children`); the whole digest of the subject, or "".

    `elsewhere` are those of the blobs that need not be in the repository.
    """

    blobs: frozenset[str] = frozenset()
    children: frozenset[str] = frozenset()
    subject: str = ""
    elsewhere: frozenset[str] = frozenset()


def short(digest: str) -> str:
    """Truncate a digest."""
    return base64.urlsafe_b64encode(bytes.fromhex(digest.partition(":")[2][:HEX_DIGITS])).decode()


def hex_of(cut: str) -> str:
    """Return the hex digits of a truncated digest."""
    return base64.urlsafe_b64decode(cut).hex()


def cuts(shorts: Iterable[str]) -> Iterator[int]:
    """Yield the first 8 bytes of each truncated digest, as a number (`registry.upkeep.garbage`)."""
    for (cut,) in struct.iter_unpack(">Q4x", base64.urlsafe_b64decode("".join(shorts))):
        yield cut


def references_of(manifest: Manifest) -> References:
    """Return the references of a parsed manifest."""
    required = frozenset(short(str(one.digest)) for one in manifest.blobs)
    blobs = frozenset(short(str(one.digest)) for one in manifest.all_blobs)
    children = frozenset(short(str(one.digest)) for one in manifest.children)
    subject = "" if manifest.subject is None else str(manifest.subject.digest)
    return References(blobs, children, subject, blobs - required)


def pack(references: References) -> str | None:
    """Encode for metadata; None when that is too long. Leaves out the subject, which has its own metadata entry."""
    kinds = [references.blobs - references.elsewhere, references.children]
    if references.elsewhere:
        kinds.append(references.elsewhere)
    text = _SEPARATOR.join("".join(sorted(kind)) for kind in kinds)
    return text if len(text) <= MAX_LENGTH else None


def unpack(text: str, subject: str) -> References:
    """Decode what `pack` encoded."""
    blobs, children, *rest = map(_split, f"{text}{_SEPARATOR}".split(_SEPARATOR))
    elsewhere = frozenset[str]().union(*rest)
    return References(blobs | elsewhere, children, subject, elsewhere)


def _split(text: str) -> frozenset[str]:
    return frozenset(text[at : at + SHORT] for at in range(0, len(text), SHORT))
