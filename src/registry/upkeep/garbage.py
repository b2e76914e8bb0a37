"""Decides what is garbage in a repository, from its listings. This module does not access the bucket.

A repository may have a million blobs, and an isolate has 128 MB of memory. So only the first 8 bytes of a digest that a
manifest refers to are kept, in arrays (a "cut digest"). If two digests share them, garbage may be kept, but nothing
in use is deleted.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from registry.spec.endpoints import Mode
from registry.spec.manifest_references import References, cuts

# Seconds. A manifest looks untagged until a push writes its tag or its index.
MIN_UNTAGGED_AGE = 24 * 3600
MIN_TOMBSTONE_AGE = 300  # seconds for which a running or interrupted deletion may need its tombstones
MAX_SHOWN = 1_000  # names of each kind that an answer lists; its counts include the others

TAGS, MANIFESTS, TOMBSTONES, REFERRERS, BLOBS = "tags", "manifests", "tombstones", "referrers", "blobs"
KINDS = (TAGS, MANIFESTS, TOMBSTONES, REFERRERS, BLOBS)  # of garbage

_CUT_DIGITS = 16  # hex digits of a cut digest: 8 bytes
_BUCKET_SHIFT = 56  # bits: a bucket for each first byte, so that each sort is small


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one collection. Ages are in seconds."""

    mode: Mode
    grace: int  # minimum age of blobs, tombstones and referrers entries
    untagged_age: int = MIN_UNTAGGED_AGE


@dataclass(slots=True)
class Garbage:
    """The garbage that was deleted, or would be: a count for each kind, and the first names of each."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    shown: dict[str, list[object]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    bytes: int = 0  # of blobs

    def note(self, kind: str, name: str, size: int) -> None:
        """Count one more object; `size` is in bytes."""
        self.counts[kind] += 1
        if len(self.shown[kind]) < MAX_SHOWN:
            self.shown[kind].append({"digest": name, "size": size} if kind == BLOBS else name)
        if kind == BLOBS:
            self.bytes += size


def cut_of(digest: str) -> int:
    """Return the first 8 bytes of a digest, or of hex digits, as a number."""
    at = digest.find(":") + 1
    return int(digest[at : at + _CUT_DIGITS], 16)


def _low_of(digest: str) -> int:
    at = digest.find(":") + 1 + _CUT_DIGITS
    return int(digest[at : at + _CUT_DIGITS], 16)


_Bucket: TypeAlias = "tuple[array[int], array[int]]"  # cut digests, and their numbers


class DigestIndex:
    """A multimap from cut digests to numbers. An entry takes 12 bytes; entries are sorted at the first lookup."""

    def __init__(self) -> None:
        self._buckets: dict[int, _Bucket] = {}
        self._unsorted: set[int] = set()

    def add(self, cut: int, number: int) -> None:
        """Add an entry."""
        at = cut >> _BUCKET_SHIFT
        bucket = self._buckets.get(at)
        if bucket is None:
            bucket = self._buckets[at] = (array("Q"), array("I"))
        elif cut < bucket[0][-1]:
            self._unsorted.add(at)
        bucket[0].append(cut)
        bucket[1].append(number)

    def find(self, cut: int) -> Iterator[int]:
        """Yield the numbers of a cut digest."""
        keys, numbers = self._sorted(cut >> _BUCKET_SHIFT)
        for place in range(bisect_left(keys, cut), len(keys)):
            if keys[place] != cut:
                return
            yield numbers[place]

    def has(self, cut: int, alive: bytearray | None = None) -> bool:
        """Whether the cut digest has an entry; if `alive` is given, an entry whose number is alive."""
        keys, numbers = self._sorted(cut >> _BUCKET_SHIFT)
        for place in range(bisect_left(keys, cut), len(keys)):
            if keys[place] != cut:
                break
            if alive is None or alive[numbers[place]]:
                return True
        return False

    def following(self, cut: int) -> int | None:
        """Return the smallest cut digest that is not below `cut`; None when there is none."""
        for at in range(cut >> _BUCKET_SHIFT, 1 << 8):
            keys, _ = self._sorted(at)
            place = bisect_left(keys, cut)
            if place < len(keys):
                return keys[place]
        return None

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield every entry: a cut digest and its number."""
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
    """The manifests of a repository, numbered in the order in which they were added, and what they refer to."""

    def __init__(self) -> None:
        # The first 8 bytes of each manifest's digest, and the next 8: 16 bytes tell all manifests apart.
        self._high, self._low = array("Q"), array("Q")
        self._by_digest = DigestIndex()
        self.uploaded = array("d")  # seconds since the epoch
        self.tagged = bytearray()  # 1: the manifest has a tag that stays
        self.blobs = DigestIndex()  # from blobs to the manifests that refer to them
        self.referrers = DigestIndex()  # from subjects to the manifests that name them
        self.children: dict[int, tuple[int, ...]] = {}  # from indexes to the cut digests of their children

    def __len__(self) -> int:
        """Return the number of manifests."""
        return len(self._high)

    def find(self, digest: str) -> int | None:
        """Return the number of a manifest; None when it was not added."""
        low = _low_of(digest)
        return next((one for one in self._by_digest.find(cut_of(digest)) if self._low[one] == low), None)

    def has_digest(self, cut: int) -> bool:
        """Whether a manifest has this cut digest."""
        return self._by_digest.has(cut)

    def add(self, digest: str, uploaded: float, references: References) -> int:
        """Add a manifest and return its number."""
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
        """Return 1 for each manifest that stays, by number; `now` is in seconds since the epoch.

        In mode `untagged`, tagged manifests and young ones stay, and with each its children and its referrers. In the
        other modes, all stay.
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
