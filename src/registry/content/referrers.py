"""The referrers of a manifest (spec, "Listing Referrers"): an entry for each manifest with a subject, its descriptor.

An entry's bytes are the descriptor. One that fits also stands in the entry's metadata; of one that does not the
artifact type does. So one listing answers for many, and only what is shown is read. Entries of serverless-registry have
no metadata.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from registry.ports.memory import Lease
from registry.ports.platform import Platform
from registry.ports.storage import IN_FLIGHT, MAX_LIST_KEYS, Attributes, StoredObject
from registry.spec.manifest_format import OCI_INDEX, Manifest
from registry.spec.media_types import JSON
from registry.spec.names import Digest, RepositoryName, parse_digest
from registry.spec.untrusted_json import read_json
from registry.storage import keys
from registry.telemetry.log import log

MAX_ANSWER = 4 * 1024 * 1024  # bytes of one answer's descriptors; the rest is behind its Link
# Bytes of the annotations in a descriptor; those that do not fit stand in the manifest alone.
MAX_ANNOTATIONS = 16 * 1024
_MAX_ENTRY = 5 * 1024 * 1024  # bytes: what older versions stored may have a manifest's annotations whole
_FIRST_PAGE = 100  # entries: nearly always all; their metadata takes little memory
_SMALL = 256 * 1024  # bytes of an answer that needs no room in the ledger
_MAX_CALLS = 900  # R2 calls of one request

# Metadata of an entry, which has 2,048 bytes for everything (docs/adr/0005).
_DESCRIPTOR, _ARTIFACT_TYPE = "descriptor", "artifact-type"
_MAX_METADATA = 1_900  # bytes of one of them


@dataclass(frozen=True, slots=True)
class Entry:
    """What is stored for a referrer: its bytes, and what goes with them."""

    data: bytes
    attributes: Attributes


def make_entry(manifest: Manifest, digest: Digest, size: int) -> Entry:
    """The entry of a manifest of `size` bytes."""
    descriptor: dict[str, object] = {"mediaType": manifest.media_type, "digest": str(digest), "size": size}
    if manifest.artifact_type is not None:
        descriptor["artifactType"] = manifest.artifact_type
    if annotations := _some(manifest.annotations):
        descriptor["annotations"] = annotations
    text = json.dumps(descriptor)
    metadata = {_DESCRIPTOR: text}
    if len(text) > _MAX_METADATA:
        artifact_type = json.dumps(manifest.artifact_type)
        metadata = {_ARTIFACT_TYPE: artifact_type} if len(artifact_type) <= _MAX_METADATA else {}
    return Entry(text.encode(), Attributes(JSON, metadata))


def _some(annotations: Mapping[str, str]) -> dict[str, str]:
    """Those annotations that have room, in their order."""
    kept, left = {}, MAX_ANNOTATIONS
    for name, value in annotations.items():
        size = len(name) + len(value)
        size = size if size > left else len(json.dumps({name: value}))
        if size <= left:
            kept[name] = value
            left -= size
    return kept


@dataclass(frozen=True, slots=True)
class ReferrerPage:
    """An answer: an index of descriptors, behind which digest more may follow, and the room that it takes."""

    index: bytes
    last: Digest | None  # None on the last page
    lease: Lease | None


async def list_page(
    platform: Platform, name: RepositoryName, subject: Digest, artifact_type: str | None, last: Digest | None
) -> ReferrerPage:
    """The manifests that name `subject`, those of one artifact type when it is given, up to MAX_ANSWER."""
    with ExitStack() as on_error:
        page = _Page(platform, name, subject, artifact_type, on_error)
        following = await page.fill(last)
        on_error.pop_all()
        head = f'{{"schemaVersion": 2, "mediaType": "{OCI_INDEX}", "manifests": ['
        return ReferrerPage(f"{head}{', '.join(page.shown)}]}}".encode(), following, page.lease)


def _batches(entries: Sequence[StoredObject]) -> Iterator[Sequence[StoredObject]]:
    """The entries, as many at a time as are read at once: large ones alone."""
    batch: list[StoredObject] = []
    for entry in entries:
        if len(batch) == IN_FLIGHT or sum(one.size for one in (*batch, entry)) > _SMALL:
            yield from filter(None, (batch,))
            batch = []
        batch.append(entry)
    yield from filter(None, (batch,))


class _Page:
    """One answer while it is put together."""

    def __init__(
        self, platform: Platform, name: RepositoryName, subject: Digest, artifact_type: str | None, leases: ExitStack
    ) -> None:
        self._platform = platform
        self._prefix = keys.referrers(name, subject)
        self._artifact_type = artifact_type
        self._leases = leases
        self._calls = 0
        self._size = 0  # bytes of what is shown, or about to be read
        self.shown: list[str] = []
        self.lease: Lease | None = None

    async def fill(self, last: Digest | None) -> Digest | None:
        """Show what comes behind `last`; where to go on, None at the end."""
        after = None if last is None else f"{self._prefix}{last}"
        limit = _FIRST_PAGE
        while True:
            listing = await self._platform.storage.list(
                self._prefix, start_after=after, limit=limit, with_metadata=True
            )
            self._calls += 1
            for batch in _batches(listing.objects):
                for found in batch:
                    # At least one: the next answer begins behind it.
                    if self.shown and self._size + found.size > MAX_ANSWER:
                        return self._digest(after)
                    if self._may_match(found):
                        self._size += found.size
                    if self._size > _SMALL:
                        await self._take_room()
                self.shown += filter(None, await asyncio.gather(*map(self._descriptor, batch)))
                after = batch[-1].key
            if listing.cursor is None:
                return None
            if self._calls >= _MAX_CALLS:
                return self._digest(after)
            await self._take_room()
            limit = MAX_LIST_KEYS

    def _digest(self, key: str | None) -> Digest | None:
        return None if key is None else parse_digest(key.removeprefix(self._prefix))

    async def _take_room(self) -> None:
        if self.lease is None:
            self.lease = await self._platform.pulled_documents.reserve(2 * MAX_ANSWER)
            self._leases.enter_context(self.lease)

    def _may_match(self, found: StoredObject) -> bool:
        """Whether the entry is shown, as far as its metadata says."""
        known = found.metadata.get(_ARTIFACT_TYPE)
        return self._artifact_type is None or known is None or json.loads(known) == self._artifact_type

    async def _descriptor(self, found: StoredObject) -> str | None:
        """The descriptor of an entry, if it is shown."""
        if not self._may_match(found):
            return None
        text = found.metadata.get(_DESCRIPTOR)
        if text is None:
            self._calls += 1
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
            return None  # deleted meanwhile
        if stored.object.size > _MAX_ENTRY:
            await stored.body.cancel()
            return ""
        return (await stored.body.read(stored.object.size)).decode(errors="replace")
