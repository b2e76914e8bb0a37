"""Lists the referrers of a manifest (spec, "Listing Referrers"). Each manifest with a subject has one entry in R2.

The bytes of an entry are the descriptor of the manifest. The entry's metadata contains the descriptor too if it fits,
otherwise only the artifact type. So one R2 listing gives the descriptors of many referrers, and an entry is read only
if it is shown. Entries of serverless-registry have no metadata.
"""

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from registry.ports.memory import Lease
from registry.ports.platform import Platform
from registry.ports.storage import IN_FLIGHT, MAX_LIST_KEYS, Attributes, Listing, StoredObject
from registry.spec.manifest_format import OCI_INDEX, Manifest
from registry.spec.media_types import JSON
from registry.spec.names import Digest, RepositoryName, parse_digest
from registry.spec.untrusted_json import read_json
from registry.storage import keys
from registry.storage.calls import Calls
from registry.telemetry.log import log

MAX_ANSWER = 4 * 1024 * 1024  # bytes of one answer's descriptors; its Link leads to the rest
# Bytes of the annotations in a descriptor; annotations that do not fit are only in the manifest.
MAX_ANNOTATIONS = 16 * 1024
_MAX_ENTRY = 5 * 1024 * 1024  # bytes: entries of older versions may contain all annotations of a manifest
_FIRST_PAGE = 100  # entries: nearly always all of them; their metadata takes little memory
_SMALL = 256 * 1024  # bytes of an answer that needs no memory reservation

# Names of an entry's metadata. R2 allows 2,048 bytes for all metadata of an object (docs/adr/0005).
_DESCRIPTOR, _ARTIFACT_TYPE = "descriptor", "artifact-type"
_MAX_METADATA = 1_900  # bytes of one value


@dataclass(frozen=True, slots=True)
class Entry:
    """The R2 object of a referrer: its bytes and attributes."""

    data: bytes
    attributes: Attributes


def describe(
    media_type: str, digest: Digest, size: int, artifact_type: str | None, annotations: Mapping[str, str]
) -> str:
    """Return the descriptor of a manifest of `size` bytes, as JSON."""
    descriptor: dict[str, object] = {"mediaType": media_type, "digest": str(digest), "size": size}
    if artifact_type is not None:
        descriptor["artifactType"] = artifact_type
    if some := _some(annotations):
        descriptor["annotations"] = some
    return json.dumps(descriptor)


def make_entry(manifest: Manifest, digest: Digest, size: int) -> Entry:
    """Return the entry of a manifest of `size` bytes."""
    text = describe(manifest.media_type, digest, size, manifest.artifact_type, manifest.annotations)
    metadata = {_DESCRIPTOR: text}
    if len(text) > _MAX_METADATA:
        artifact_type = json.dumps(manifest.artifact_type)
        metadata = {_ARTIFACT_TYPE: artifact_type} if len(artifact_type) <= _MAX_METADATA else {}
    return Entry(text.encode(), Attributes(JSON, metadata))


def _some(annotations: Mapping[str, str]) -> dict[str, str]:
    """Return the annotations that fit into MAX_ANNOTATIONS, in their order."""
    kept, left = {}, MAX_ANNOTATIONS
    for name, value in annotations.items():
        size = len(name) + len(value)
        size = size if size > left else len(json.dumps({name: value}))
        if size <= left:
            kept[name] = value
            left -= size
    return kept


class Room:
    """What a request for a list of referrers may use: R2 calls and memory.

    The memory is reserved at most once, and released unless it is handed over.
    """

    def __init__(self, platform: Platform, calls: Calls) -> None:
        self.platform = platform
        self.calls = calls
        self._lease: Lease | None = None

    async def take(self, _: int = 0) -> None:
        """Wait until the memory is reserved, unless it already is."""
        if self._lease is None:
            self._lease = await self.platform.pulled_documents.reserve(2 * MAX_ANSWER)

    def hand_over(self) -> Lease | None:
        """Return the lease, which the caller must release; None if no memory was reserved."""
        lease, self._lease = self._lease, None
        return lease

    def __enter__(self) -> Self:
        """Return this object."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the memory."""
        if (lease := self.hand_over()) is not None:
            with lease:
                pass


@dataclass(frozen=True, slots=True)
class ReferrerPage:
    """One page of an answer: an index of descriptors. More of them may follow after the digest `last`."""

    index: bytes
    is_empty: bool
    last: Digest | None  # None on the last page


async def list_page(
    room: Room,
    name: RepositoryName,
    subject: Digest,
    artifact_type: str | None,
    last: Digest | None,
    elsewhere: Iterable[tuple[str, str]] = (),
) -> ReferrerPage:
    """List the manifests that name `subject`, of `artifact_type` if it is given.

    A page ends at MAX_ANSWER bytes, or when the R2 calls are spent.

    `elsewhere`: the digests and descriptors of an upstream registry, in order. For a digest that this registry also
    has, its own entry is shown.
    """
    page = _Page(room, name, subject, artifact_type, elsewhere)
    following = await page.fill(last)
    head = f'{{"schemaVersion": 2, "mediaType": "{OCI_INDEX}", "manifests": ['
    return ReferrerPage(f"{head}{', '.join(page.shown)}]}}".encode(), not page.shown, following)


def _batches(entries: Sequence[StoredObject]) -> Iterator[Sequence[StoredObject]]:
    """Split the entries into batches that are read concurrently; a large entry is a batch of its own."""
    batch: list[StoredObject] = []
    for entry in entries:
        if len(batch) == IN_FLIGHT or sum(one.size for one in (*batch, entry)) > _SMALL:
            yield from filter(None, (batch,))
            batch = []
        batch.append(entry)
    yield from filter(None, (batch,))


class _Page:
    """Builds one page."""

    def __init__(
        self,
        room: Room,
        name: RepositoryName,
        subject: Digest,
        artifact_type: str | None,
        elsewhere: Iterable[tuple[str, str]],
    ) -> None:
        self._platform = room.platform
        self._prefix = keys.referrers(name, subject)
        self._copy = keys.copied_referrers(name, subject)
        self._artifact_type = artifact_type
        self._room = room
        self._elsewhere = [self._stand_in(digest, text) for digest, text in elsewhere]
        self._calls = room.calls
        self._size = 0  # bytes of the entries that are shown or about to be read
        self.shown: list[str] = []

    async def fill(self, last: Digest | None) -> Digest | None:
        """Collect the entries after `last`. Return the digest after which the next page begins; None on the last."""
        after = None if last is None else f"{self._prefix}{last}"
        limit = _FIRST_PAGE
        while True:
            listing = await self._platform.storage.list(
                self._prefix, start_after=after, limit=limit, with_metadata=True
            )
            self._calls.left -= 1
            for batch in _batches(self._merged(listing, after)):
                for found in batch:
                    # A page has at least one entry, otherwise the next page would begin at the same place.
                    if self.shown and self._size + found.size > MAX_ANSWER:
                        return self._digest(after)
                    if self._may_match(found):
                        self._size += found.size
                    if self._size > _SMALL:
                        await self._room.take()
                self.shown += filter(None, await asyncio.gather(*map(self._descriptor, batch)))
                after = batch[-1].key
            if listing.cursor is None:
                return None
            after = listing.objects[-1].key
            if self._calls.left <= 0:
                return self._digest(after)
            await self._room.take()
            limit = MAX_LIST_KEYS

    def _stand_in(self, digest: str, text: str) -> StoredObject:
        """Return the object that a referrer of an upstream would have in this registry."""
        return StoredObject(f"{self._prefix}{digest}", len(text), "", 0.0, JSON, {_DESCRIPTOR: text}, None)

    def _merged(self, listing: Listing, after: str | None) -> Sequence[StoredObject]:
        """Merge the listed entries with the upstream's in the same range of keys."""
        own = {found.key: found for found in listing.objects if found.key != self._copy}
        begin, end = after or "", None if listing.cursor is None else listing.objects[-1].key
        more = {one.key: one for one in self._elsewhere if begin < one.key and (end is None or one.key <= end)}
        return sorted({**more, **own}.values(), key=lambda found: found.key) if more else list(own.values())

    def _digest(self, key: str | None) -> Digest | None:
        return None if key is None else parse_digest(key.removeprefix(self._prefix))

    def _may_match(self, found: StoredObject) -> bool:
        """Return False if the entry's metadata already shows that its artifact type does not match."""
        known = found.metadata.get(_ARTIFACT_TYPE)
        return self._artifact_type is None or known is None or known == json.dumps(self._artifact_type)

    async def _descriptor(self, found: StoredObject) -> str | None:
        """Return the descriptor of an entry; None if the entry is not shown."""
        if not self._may_match(found):
            return None
        text = found.metadata.get(_DESCRIPTOR)
        if text is None:
            self._calls.left -= 1
            text = await self._read(found)
        try:
            descriptor = None if text is None else read_json(text, _MAX_ENTRY)
        except ValueError:
            descriptor = None
        if text is not None and not isinstance(descriptor, dict):
            log("damaged-referrer", key=found.key)
            return None
        is_shown = descriptor is not None and self._artifact_type in (None, descriptor.get("artifactType"))
        return text if is_shown else None

    async def _read(self, found: StoredObject) -> str | None:
        stored = await self._platform.storage.get(found.key)
        if stored is None:
            return None  # deleted since the listing
        if stored.object.size > _MAX_ENTRY:
            await stored.body.cancel()
            return ""
        return (await stored.body.read(stored.object.size)).decode(errors="replace")
