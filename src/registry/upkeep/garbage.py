"""What is garbage in a repository: rules over what its listings showed. Nothing here touches the bucket.

A repository may have a million blobs, and an isolate has 128 MB. So of each digest that a manifest refers to, only 8
bytes are kept, in arrays. Two digests that begin alike only keep something alive that could go.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from registry.spec.endpoints import Mode
from registry.spec.manifest_references import References, cuts

# Seconds. A manifest between its digest and its tag, or a child before its index, looks untagged.
MIN_UNTAGGED_AGE = 24 * 3600
MIN_TOMBSTONE_AGE = 300  # seconds in which a deletion that is under way, or broke off, may need them
MAX_SHOWN = 1_000  # names of each kind that an answer lists; the numbers are of all

TAGS, MANIFESTS, TOMBSTONES, REFERRERS, BLOBS = "tags", "manifests", "tombstones", "referrers", "blobs"
KINDS = (TAGS, MANIFESTS, TOMBSTONES, REFERRERS, BLOBS)  # of what goes

_CUT_DIGITS = 16  # hex digits of a cut digest: 8 bytes
_BUCKET_SHIFT = 56  # bits: entries are kept apart by their first byte, so that little is sorted at once


@dataclass(frozen=True, slots=True)
class Rules:
    """What one collection goes by. Ages are in seconds."""

    mode: Mode
    grace: int  # of blobs, tombstones and entries of referrers
    untagged_age: int = MIN_UNTAGGED_AGE


@dataclass(slots=True)
class Garbage:
    """What went, or would go: how many of each kind, and the first ones of each."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    shown: dict[str, list[object]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    bytes: int = 0  # of blobs

    def note(self, kind: str, name: str, size: int) -> None:
        """One more; `size` in bytes."""
        self.counts[kind] += 1
        if len(self.shown[kind]) < MAX_SHOWN:
            self.shown[kind].append({"digest": name, "size": size} if kind == BLOBS else name)
        if kind == BLOBS:
            self.bytes += size


def cut_of(digest: str) -> int:
    """The first 8 bytes of a digest, or of hex digits."""
    at = digest.find(":") + 1
    return int(digest[at : at + _CUT_DIGITS], 16)


def _low_of(digest: str) -> int:
    at = digest.find(":") + 1 + _CUT_DIGITS
    return int(digest[at : at + _CUT_DIGITS], 16)


_Bucket: TypeAlias = "tuple[array[int], array[int]]"  # cut digests, and their numbers


class DigestIndex:
    """From cut digests to numbers: 12 bytes an entry, sorted when it is asked."""

    def __init__(self) -> None:
        self._buckets: dict[int, _Bucket] = {}
        self._unsorted: set[int] = set()

    def add(self, cut: int, number: int) -> None:
        """One more entry."""
        at = cut >> _BUCKET_SHIFT
        bucket = self._buckets.get(at)
        if bucket is None:
            bucket = self._buckets[at] = (array("Q"), array("I"))
        elif cut < bucket[0][-1]:
            self._unsorted.add(at)
        bucket[0].append(cut)
        bucket[1].append(number)

    def find(self, cut: int) -> Iterator[int]:
        """The numbers of a cut digest."""
        keys, numbers = self._sorted(cut >> _BUCKET_SHIFT)
        for place in range(bisect_left(keys, cut), len(keys)):
            if keys[place] != cut:
                return
            yield numbers[place]

    def has(self, cut: int, alive: bytearray | None = None) -> bool:
        """Whether there is an entry, with one of the numbers that are `alive` when those are given."""
        keys, numbers = self._sorted(cut >> _BUCKET_SHIFT)
        for place in range(bisect_left(keys, cut), len(keys)):
            if keys[place] != cut:
                break
            if alive is None or alive[numbers[place]]:
                return True
        return False

    def following(self, cut: int) -> int | None:
        """The first cut digest from this one on."""
        for at in range(cut >> _BUCKET_SHIFT, 1 << 8):
            keys, _ = self._sorted(at)
            place = bisect_left(keys, cut)
            if place < len(keys):
                return keys[place]
        return None

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Every entry: a cut digest and its number."""
        for keys, numbers in self._buckets.values():
            yield from zip(keys, numbers, strict=True)

    def _sorted(self, at: int) -> "_Bucket":
        keys, numbers = bucket = self._buckets.get(at) or _NO_ENTRIES
        if at in self._unsorted:
            self._unsorted.discard(at)
            order = sorted(range(len(keys)), key=keys.__getitem__)
            bucket = self._buckets[at] = (
                array("Q", map(keys.__getitem__, order)),
                array("I", map(numbers.__getitem__, order)),
            )
        return bucket


_NO_ENTRIES: _Bucket = (array("Q"), array("I"))


class Contents:
    """The manifests of a repository, numbered as they were seen, and what they refer to."""

    def __init__(self) -> None:
        # Of each digest the first 8 bytes and the next 8: two manifests are never taken for one.
        self._high, self._low = array("Q"), array("Q")
        self._by_digest = DigestIndex()
        self.uploaded = array("d")  # seconds since the epoch
        self.tagged = bytearray()  # 1: a tag that stays leads to it
        self.blobs = DigestIndex()  # to the manifests that refer to a blob
        self.referrers = DigestIndex()  # to the manifests that name a subject
        self.children: dict[int, tuple[int, ...]] = {}  # of indexes: cut digests

    def __len__(self) -> int:
        """How many there are."""
        return len(self._high)

    def find(self, digest: str) -> int | None:
        """The number of a manifest; None when it was not seen."""
        low = _low_of(digest)
        return next((one for one in self._by_digest.find(cut_of(digest)) if self._low[one] == low), None)

    def has_digest(self, cut: int) -> bool:
        """Whether there is a manifest of this cut digest."""
        return self._by_digest.has(cut)

    def add(self, digest: str, uploaded: float, references: References) -> int:
        """One more manifest; its number."""
        number = len(self)
        self._by_digest.add(cut_of(digest), number)
        self._high.append(cut_of(digest))
        self._low.append(_low_of(digest))
        self.uploaded.append(uploaded)
        self.tagged.append(0)
        for cut in cuts(references.blobs):
            self.blobs.add(cut, number)
        if references.children:
            self.children[number] = tuple(cuts(references.children))
        if references.subject:
            self.referrers.add(cut_of(references.subject), number)
        return number

    def alive(self, rules: Rules, now: float) -> bytearray:
        """Of each manifest, by number, 1 when it stays; `now` is in seconds since the epoch.

        What a tag leads to stays, and young ones; so do the children of what stays, and what names it as its subject.
        """
        if rules.mode is not Mode.UNTAGGED:
            return bytearray(b"\1") * len(self)
        age = max(rules.untagged_age, MIN_UNTAGGED_AGE)
        alive = bytearray(len(self))
        pending = [one for one, put in enumerate(self.uploaded) if self.tagged[one] or now - put < age]
        while pending:
            number = pending.pop()
            if alive[number]:
                continue
            alive[number] = 1
            pending += self.referrers.find(self._high[number])
            for child in self.children.get(number, ()):
                pending += self._by_digest.find(child)
        return alive
