"""What is garbage in a repository: rules over what a listing showed. Nothing here touches the bucket."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from registry.manifest_references import References, short

# Seconds. A manifest between its digest and its tag, or a child before its index, looks untagged.
MIN_UNTAGGED_AGE = 24 * 3600
MIN_TOMBSTONE_AGE = 300  # seconds in which a deletion that is under way, or broke off, may need them


class Mode(Enum):
    """What is collected, as serverless-registry has it."""

    UNREFERENCED = "unreferenced"  # blobs that no manifest refers to
    UNTAGGED = "untagged"  # also manifests that no tag reaches, and their blobs


@dataclass(frozen=True, slots=True)
class Rules:
    """What one collection goes by. Ages are in seconds."""

    mode: Mode
    grace: int  # of blobs, tombstones and entries of referrers
    untagged_age: int = MIN_UNTAGGED_AGE
    without_tags: frozenset[str] = frozenset()  # as if these were deleted


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest under its digest or a tag, or a tombstone."""

    reference: str
    etag: str
    uploaded: float  # seconds since the epoch
    digest: str | None  # of the bytes; a tag of SR's may lack it
    is_tombstone: bool

    @property
    def is_tag(self) -> bool:
        """Whether it is the copy under a tag."""
        return ":" not in self.reference


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob of the repository: its own object, and what a link of ours leads to."""

    digest: str
    size: int  # bytes, those that a link leads to
    uploaded: float  # seconds since the epoch
    data_id: str = ""
    ref: str = ""  # nonce of the link's ref


@dataclass(frozen=True, slots=True)
class Referrer:
    """An entry among the referrers of `subject`: that of the manifest `digest`."""

    subject: str
    digest: str
    uploaded: float  # seconds since the epoch


@dataclass(slots=True)
class Contents:
    """What was seen of a repository. `references` are of manifests, by etag: equal bytes refer to the same."""

    manifests: dict[str, Manifest] = field(default_factory=dict)
    references: dict[str, References] = field(default_factory=dict)
    referrers: list[Referrer] = field(default_factory=list)
    blobs: list[Blob] = field(default_factory=list)  # candidates


@dataclass(frozen=True, slots=True)
class Garbage:
    """What may go."""

    manifests: tuple[Manifest, ...] = ()
    tombstones: tuple[Manifest, ...] = ()
    referrers: tuple[Referrer, ...] = ()
    blobs: tuple[Blob, ...] = ()
    is_all: bool = True  # there is no more

    def limited(self, count: int) -> "Garbage":
        """At most `count` of each kind. While manifests are left their blobs stay."""
        kinds = (self.manifests, self.tombstones, self.referrers, self.blobs)
        if all(len(kind) <= count for kind in kinds):
            return self
        swept = () if len(self.manifests) > count else self.blobs[:count]
        return Garbage(self.manifests[:count], self.tombstones[:count], self.referrers[:count], swept, is_all=False)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.manifests or self.tombstones or self.referrers or self.blobs)


def find_garbage(contents: Contents, rules: Rules, now: float) -> Garbage:
    """Apply the rules; `now` is in seconds since the epoch."""
    alive = _alive(contents, rules, now)
    manifests = contents.manifests
    referenced: set[str] = set()
    for reference in alive:
        referenced |= contents.references[manifests[reference].etag].blobs
    return Garbage(
        tuple(one for one in manifests.values() if not (one.is_tombstone or one.is_tag or one.reference in alive)),
        tuple(
            one
            for one in manifests.values()
            if one.is_tombstone and now - one.uploaded >= max(rules.grace, MIN_TOMBSTONE_AGE)
        ),
        tuple(one for one in contents.referrers if one.digest not in alive and now - one.uploaded >= rules.grace),
        tuple(
            one for one in contents.blobs if short(one.digest) not in referenced and now - one.uploaded >= rules.grace
        ),
    )


def _alive(contents: Contents, rules: Rules, now: float) -> set[str]:
    """The tags and digests that stay."""
    present = {ref: one for ref, one in contents.manifests.items() if not one.is_tombstone}
    tags = {reference for reference, one in present.items() if one.is_tag and reference not in rules.without_tags}
    if rules.mode is Mode.UNREFERENCED:
        return tags | {reference for reference, one in present.items() if not one.is_tag}
    by_short: dict[str, list[str]] = {}
    by_etag: dict[str, list[str]] = {}
    by_subject: dict[str, list[str]] = {}
    for reference, one in present.items():
        if not one.is_tag:
            by_short.setdefault(short(reference), []).append(reference)
            by_etag.setdefault(one.etag, []).append(reference)
            by_subject.setdefault(contents.references[one.etag].subject, []).append(reference)
    age = max(rules.untagged_age, MIN_UNTAGGED_AGE)
    pending = [reference for reference, one in present.items() if not one.is_tag and now - one.uploaded < age]
    for tag in tags:
        digest = present[tag].digest
        pending += [digest] if digest in present else by_etag.get(present[tag].etag, [])
    alive = set(tags)
    # A tag keeps what it refers to even where its digest is not there.
    for tag in tags:
        pending += _children(contents.references, present[tag], by_short)
    while pending:
        reference = pending.pop()
        if reference in alive:
            continue
        alive.add(reference)
        pending += _children(contents.references, present[reference], by_short)
        pending += by_subject.get(reference, [])
    return alive


def _children(references: Mapping[str, References], manifest: Manifest, by_short: Mapping[str, list[str]]) -> list[str]:
    return [found for child in references[manifest.etag].children for found in by_short.get(child, [])]
