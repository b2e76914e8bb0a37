"""Verifies that a repository is complete: each manifest's blobs exist in the right size, each link has its data object.

R2 verified the digest of an object that one put stored, and a listing has the verified checksum. Links and then their
data objects are looked up by listing. A manifest is read only if the listings leave a doubt about it.
"""

import re
from array import array
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from registry.content import blobs, manifests
from registry.ports.platform import Platform
from registry.ports.storage import StorageError, StoredObject
from registry.spec.endpoints import Mode
from registry.spec.errors import RegistryError
from registry.spec.manifest_format import Manifest, parse_stored
from registry.spec.names import ALGORITHMS, Digest, RepositoryName, is_digest, parse_digest, parse_reference
from registry.storage import keys
from registry.storage.calls import Calls, pages
from registry.upkeep.garbage import DigestIndex, Rules, cut_of
from registry.upkeep.inventory import Inventory

MAX_PROBLEMS = 200  # problems that one answer names
MAX_UNSURE = 200  # manifests that are read only because R2 has no digest of the manifest or one of its blobs
_HEX = re.compile(r"[0-9a-f]{16}", re.ASCII)
_GONE = -1  # the size of a blob whose bytes are missing


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of a verification."""

    manifests: int
    blobs: int
    problems: Sequence[dict[str, str]]
    unread: int  # manifests beyond MAX_UNSURE, for which the sizes of the blobs were not compared


async def verify(platform: Platform, name: RepositoryName, calls: Calls) -> Verified:
    """Verify a repository, until MAX_PROBLEMS problems are found. Raises OutOfCalls."""
    known = _Blobs(platform, name, calls)
    await known.look()
    inventory = _Checked(platform, name, calls, known)
    await inventory.look()
    problems = await inventory.problems()
    return Verified(inventory.seen, len(known.sizes), problems, max(0, len(inventory.unsure) - MAX_UNSURE))


class _Blobs:
    """The blobs of a repository, and their sizes."""

    def __init__(self, platform: Platform, name: RepositoryName, calls: Calls) -> None:
        self._platform, self._name, self._calls = platform, name, calls
        self._index = DigestIndex()  # from digests to the blobs' numbers
        self.sizes = array("q")  # bytes, by number
        self._is_sure = bytearray()  # by number: 1 when R2's checksum, or a link with its data, confirms the bytes

    def size_of(self, cut: int) -> int:
        """Return the size of a blob in bytes; _GONE when it does not exist."""
        return next((self.sizes[number] for number in self._index.find(cut)), _GONE)

    def is_sure(self, cut: int) -> bool:
        """Whether a blob exists and its bytes are confirmed."""
        return self._index.has(cut, self._is_sure)

    async def look(self) -> None:
        """Find all blobs, and follow their links. Raises OutOfCalls."""
        links = DigestIndex()  # from the ids of data objects to the numbers of blobs
        for algorithm in ALGORITHMS:
            prefix, odd = f"{keys.blobs(self._name)}{algorithm}:", DigestIndex()
            async for objects in pages(self._platform, self._calls, prefix):
                for found in objects:
                    self._see(found, odd)
            async for found in self._look_up(prefix, odd, with_metadata=True):
                for number in odd.find(cut_of(found.key[len(prefix) :])):
                    await self._follow(found, number, links)
        async for found in self._look_up(keys.DATA, links):
            for number in links.find(cut_of(found.key[len(keys.DATA) :])):
                self._is_sure[number] |= found.size == self.sizes[number]
        for _, number in links:
            if not self._is_sure[number]:
                self.sizes[number] = _GONE

    def _see(self, found: StoredObject, odd: DigestIndex) -> None:
        digest = found.key[len(keys.blobs(self._name)) :]
        if not is_digest(digest):
            return
        self._index.add(cut_of(digest), len(self.sizes))
        self._is_sure.append(str(found.checksum) == digest)
        if not self._is_sure[-1] and (found.checksum is not None or found.size == blobs.LINK_SIZE):
            odd.add(cut_of(digest), len(self.sizes))
        self.sizes.append(found.size)

    async def _follow(self, found: StoredObject, number: int, links: DigestIndex) -> None:
        """Follow an object that may be a link, and record the size of the blob."""
        try:
            link = blobs.link_of(found)
            if link is not None:
                self.sizes[number] = link[0].size
                links.add(cut_of(link[0].id), number)
            elif blobs.is_sr_link(found):
                self._calls.take(3)
                digest = parse_digest(found.key[len(keys.blobs(self._name)) :])
                blob = await blobs.resolve(self._platform, found, digest)
                self.sizes[number] = _GONE if blob is None else blob.size
        except StorageError:
            self.sizes[number] = _GONE  # the link is damaged

    async def _look_up(
        self, prefix: str, wanted: DigestIndex, *, with_metadata: bool = False
    ) -> AsyncIterator[StoredObject]:
        """Yield the objects at `prefix` followed by wanted hex digits, and other objects between them.

        Each page of the listing begins at the next wanted object.
        """
        cut = wanted.following(0)
        while cut is not None:
            self._calls.take()
            page = await self._platform.storage.list(
                prefix, start_after=f"{prefix}{cut:016x}", with_metadata=with_metadata
            )
            last = cut
            for found in page.objects:
                if _HEX.match(found.key, len(prefix)):
                    last = cut_of(found.key[len(prefix) :])
                    yield found
            cut = None if page.cursor is None else wanted.following(last + 1)


class _Checked(Inventory):
    """The manifests of a repository, and which of them must be read."""

    def __init__(self, platform: Platform, name: RepositoryName, calls: Calls, known: _Blobs) -> None:
        super().__init__(platform, name, calls, Rules(Mode.UNREFERENCED, 0))
        self._known = known
        self._pullable = DigestIndex()  # manifests that exist under their digest
        self._by_number: list[str] = []  # tags and digests
        self._doubtful: set[str] = set()
        self.unsure: set[str] = set()

    async def _see(self, found: StoredObject, reference: str) -> None:
        if is_digest(reference) and not manifests.is_tombstone(found):
            self._pullable.add(cut_of(reference), 0)
            if str(found.checksum) != reference:
                (self.unsure if found.checksum is None else self._doubtful).add(reference)
        await super()._see(found, reference)
        if len(self.contents) > len(self._by_number):
            self._by_number.append(reference)

    def _cannot_read(self, reference: str, error: RegistryError) -> None:  # noqa: ARG002 - `problems` reads it again
        self._doubtful.add(reference)

    def _was_read(self, reference: str, manifest: Manifest) -> None:
        if self._problems_of(manifest):
            self._doubtful.add(reference)

    async def problems(self) -> list[dict[str, str]]:
        """Read the doubtful manifests and return their problems."""
        for cut, number in self.contents.blobs:
            if not self._known.is_sure(cut):
                is_there = self._known.size_of(cut) != _GONE
                (self.unsure if is_there else self._doubtful).add(self._by_number[number])
        for number, children in self.contents.children.items():
            if not all(self._pullable.has(child) for child in children):
                self._doubtful.add(self._by_number[number])
        found: list[dict[str, str]] = []
        self.unsure -= self._doubtful
        for reference in (*sorted(self._doubtful), *sorted(self.unsure)[:MAX_UNSURE]):
            if len(found) < MAX_PROBLEMS:
                found += [{"manifest": reference, "problem": problem} for problem in await self._read(reference)]
        return found

    async def _read(self, text: str) -> list[str]:
        self._calls.take()
        reference = parse_reference(text)
        stored = await manifests.read(self._platform, self._name, reference)
        if stored is None:
            return []  # deleted meanwhile
        data = await stored.body.read(stored.object.size)
        try:
            manifest = parse_stored(data, stored.object.content_type)
            if isinstance(reference, Digest):
                manifests.receive_stored(data, stored.object.content_type, reference)
        except RegistryError as error:
            return [error.message]
        children = [child.digest for child in manifest.children if not self._pullable.has(cut_of(str(child.digest)))]
        return self._problems_of(manifest) + [f"manifest {child} is missing" for child in children]

    def _problems_of(self, manifest: Manifest) -> list[str]:
        problems = []
        for descriptor in manifest.blobs:
            size = self._known.size_of(cut_of(str(descriptor.digest)))
            if size == _GONE:
                problems.append(f"blob {descriptor.digest} is missing")
            elif descriptor.size not in (None, size):
                problems.append(f"blob {descriptor.digest} has {size} bytes, and the manifest says {descriptor.size}")
        return problems
