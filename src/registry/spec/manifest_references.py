"""What a manifest refers to, in few bytes: kept in its metadata, so that a listing is enough to collect garbage.

A digest is cut to its first 96 bits. Two that begin alike only keep something alive that could go.
"""

import base64
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from registry.spec.manifest_format import Manifest

SHORT = 16  # characters of a cut digest: base64url of 12 bytes
HEX_DIGITS = 24  # of a digest, that are left of it
# Characters in metadata, which has 2,048 bytes for everything (docs/adr/0005). About 100 digests.
MAX_LENGTH = 1_650
_SEPARATOR = "."


@dataclass(frozen=True, slots=True)
class References:
    """Cut digests: of blobs, and of manifests of an index; and the whole digest of the subject, or "".

    `elsewhere` are those of the blobs that need not be there.
    """

    blobs: frozenset[str] = frozenset()
    children: frozenset[str] = frozenset()
    subject: str = ""
    elsewhere: frozenset[str] = frozenset()


def short(digest: str) -> str:
    """A cut digest."""
    return base64.urlsafe_b64encode(bytes.fromhex(digest.partition(":")[2][:HEX_DIGITS])).decode()


def hex_of(cut: str) -> str:
    """The hex digits with which a cut digest begins."""
    return base64.urlsafe_b64decode(cut).hex()


def cuts(shorts: Iterable[str]) -> Iterator[int]:
    """The first 8 bytes of each of some cut digests, as a number (`registry.upkeep.garbage`)."""
    for (cut,) in struct.iter_unpack(">Q4x", base64.urlsafe_b64decode("".join(shorts))):
        yield cut


def references_of(manifest: Manifest) -> References:
    """What a parsed manifest refers to."""
    required = frozenset(short(str(one.digest)) for one in manifest.blobs)
    blobs = frozenset(short(str(one.digest)) for one in manifest.all_blobs)
    children = frozenset(short(str(one.digest)) for one in manifest.children)
    subject = "" if manifest.subject is None else str(manifest.subject.digest)
    return References(blobs, children, subject, blobs - required)


def pack(references: References) -> str | None:
    """For metadata, without the subject, which stands there anyway; None when it is too long."""
    kinds = [references.blobs - references.elsewhere, references.children]
    if references.elsewhere:
        kinds.append(references.elsewhere)
    text = _SEPARATOR.join("".join(sorted(kind)) for kind in kinds)
    return text if len(text) <= MAX_LENGTH else None


def unpack(text: str, subject: str) -> References:
    """What `pack` made."""
    blobs, children, *rest = map(_split, f"{text}{_SEPARATOR}".split(_SEPARATOR))
    elsewhere = frozenset[str]().union(*rest)
    return References(blobs | elsewhere, children, subject, elsewhere)


def _split(text: str) -> frozenset[str]:
    return frozenset(text[at : at + SHORT] for at in range(0, len(text), SHORT))
