"""What a manifest refers to, in few bytes: kept in its metadata, so that a listing is enough to collect garbage.

A digest is cut to its first 96 bits. Two that begin alike only keep something alive that could go.
"""

import base64
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from registry.manifest_format import Manifest

SHORT = 16  # characters of a cut digest: base64url of 12 bytes
_HEX_DIGITS = 24
# Characters in metadata, which has 2,048 bytes for everything (docs/adr/0005). About 100 digests.
MAX_LENGTH = 1_650
_SEPARATOR = "."


@dataclass(frozen=True, slots=True)
class References:
    """Cut digests: of blobs, and of manifests of an index; and the whole digest of the subject, or ""."""

    blobs: frozenset[str] = frozenset()
    children: frozenset[str] = frozenset()
    subject: str = ""


def short(digest: str) -> str:
    """A cut digest."""
    return base64.urlsafe_b64encode(bytes.fromhex(digest.partition(":")[2][:_HEX_DIGITS])).decode()


def cuts(shorts: Iterable[str]) -> Iterator[int]:
    """The first 8 bytes of each of some cut digests, as a number (`registry.garbage`)."""
    for (cut,) in struct.iter_unpack(">Q4x", base64.urlsafe_b64decode("".join(shorts))):
        yield cut


def references_of(manifest: Manifest) -> References:
    """What a parsed manifest refers to."""
    return References(
        frozenset(short(str(one.digest)) for one in manifest.blobs),
        frozenset(short(str(one.digest)) for one in manifest.children),
        "" if manifest.subject is None else str(manifest.subject.digest),
    )


def pack(references: References) -> str | None:
    """For metadata, without the subject, which stands there anyway; None when it is too long."""
    text = f"{''.join(sorted(references.blobs))}{_SEPARATOR}{''.join(sorted(references.children))}"
    return text if len(text) <= MAX_LENGTH else None


def unpack(text: str, subject: str) -> References:
    """What `pack` made."""
    blobs, _, children = text.partition(_SEPARATOR)
    return References(frozenset(_split(blobs)), frozenset(_split(children)), subject)


def _split(text: str) -> Iterable[str]:
    return (text[at : at + SHORT] for at in range(0, len(text), SHORT))
