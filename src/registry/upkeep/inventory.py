"""Lists the manifests of a repository and what they refer to, for a collection or a verification.

Few manifests are read, because their metadata has what they refer to. Digests are listed with metadata, tags without:
the manifest of a tag is usually listed under its digest too.
"""

import hashlib
from array import array
from collections.abc import Iterable, Sequence

from registry.content import manifests
from registry.content.listings import tag_pages
from registry.ports.platform import Platform
from registry.ports.storage import StoredObject
from registry.spec.endpoints import Mode
from registry.spec.errors import Problem, RegistryError
from registry.spec.manifest_format import Manifest, parse_stored
from registry.spec.manifest_references import References, references_of
from registry.spec.names import ALGORITHMS, RepositoryName, is_digest, is_tag
from registry.storage import keys
from registry.storage.calls import Calls, pages
from registry.upkeep.garbage import Contents, Rules, cut_of
from registry.upkeep.retention import RetentionRule, attached_to


class Inventory:
    """The manifests that were seen. Later listings add to it; nothing is removed from it."""

    def __init__(
        self, platform: Platform, name: RepositoryName, calls: Calls, rules: Rules, rule: RetentionRule | None = None
    ) -> None:
        """With `rule`, a retention rule decides which tags expire."""
        self._platform, self._name, self._calls = platform, name, calls
        self._rules, self._rule = rules, rule
        self._prefix = keys.manifests(name)
        self._is_first = True  # the first look is not over
        # Tags, their upload times, and the numbers of their manifests, until the rule decided about them.
        self._tags: list[str] = []
        self._put, self._numbers = array("d"), array("I")
        # Manifests by etag, where R2 has no checksum: in tags of serverless-registry, and in objects that another tool
        # copied into the bucket.
        self._by_etag: dict[str, int] = {}
        self.contents = Contents()
        self.seen = 0  # stored manifests, including those under tags
        self.has_tombstones = False
        self.expired: list[str] = []  # tags that the rule deletes, the oldest first
        # Of these tags and of tombstones, those still to delete, with their upload times: one that was put again stays.
        self.going: dict[str, float] = {}
        self.alive = bytearray()  # of each manifest in `contents`, 1 when it stays

    def stays(self, digest: str) -> bool:
        """Whether a manifest was seen, and stays."""
        number = self.contents.find(digest)
        return number is not None and bool(self.alive[number])

    def goes(self, digest: str) -> bool:
        """Whether a manifest was seen, and is garbage."""
        number = self.contents.find(digest)
        return number is not None and not self.alive[number]

    async def look(self, objects: Sequence[StoredObject] | None = None) -> None:
        """List the manifests for the first time. `objects`, if given, are all of the repository's, with metadata."""
        with_metadata = self._rules.mode is not Mode.DELETED
        is_all = True
        if objects is None:
            self._calls.take()
            page = await self._platform.storage.list(self._prefix, with_metadata=with_metadata)
            objects, is_all = page.objects, page.cursor is None
        if is_all:
            mine = [found for found in objects if found.key.startswith(self._prefix)]
            await self._see_all(found for found in mine if ":" in found.key)
            await self._see_all(found for found in mine if ":" not in found.key)
        else:
            for algorithm in ALGORITHMS:
                prefix = f"{self._prefix}{algorithm}:"
                async for some in pages(self._platform, self._calls, prefix, with_metadata=with_metadata):
                    await self._see_all(some)
            self._calls.take()
            async for tags in tag_pages(self._platform, self._name, None):
                await self._see_all(tags.tags)
                self._calls.take()
        self._is_first = False
        if self._rule is not None:
            self._apply_rule(self._rule)
        self.alive = self.contents.alive(self._rules, self._platform.now())

    async def look_again(self) -> None:
        """List the manifests again, add the new ones, and decide again."""
        async for some in pages(self._platform, self._calls, self._prefix):
            await self._see_all(some)
        for tag in [tag for tag in self.going if self._is_attached(tag)]:
            del self.going[tag]
        self.alive = self.contents.alive(self._rules, self._platform.now())

    # ------------------------------------------------------------------ deciding
    def _apply_rule(self, rule: RetentionRule) -> None:
        counts = [not self._is_attached(tag) for tag in self._tags]
        kept = rule.kept(self._tags, self._put, counts, self._platform.now())
        for tag, put, number, is_kept, counted in zip(self._tags, self._put, self._numbers, kept, counts, strict=True):
            if is_kept or not counted:
                self.contents.tagged[number] = 1
            else:
                self.going[tag] = put
        self.expired = sorted(self.going, key=self.going.__getitem__)
        self._tags.clear()

    def _is_attached(self, tag: str) -> bool:
        """Whether a tag belongs to an image of this repository (a signature, say), and stays as long as the image."""
        subject = attached_to(tag)
        return subject is not None and self.contents.has_digest(cut_of(subject))

    # ------------------------------------------------------------------ looking
    async def _see_all(self, objects: Iterable[StoredObject]) -> None:
        for found in objects:
            await self._see(found, found.key[len(self._prefix) :])

    async def _see(self, found: StoredObject, reference: str) -> None:
        if self.going.get(reference) == found.uploaded:
            return
        self.going.pop(reference, None)
        if manifests.is_tombstone(found):
            self.has_tombstones = True
            return
        has_digest = is_digest(reference)
        if not has_digest and not is_tag(reference):
            return  # belongs to a repository whose name contains "/manifests/", or is no manifest
        self.seen += self._is_first
        digest = reference if has_digest else str(found.checksum or "")
        number = self.contents.find(digest) if digest else self._by_etag.get(found.etag)
        if number is None:
            number = await self._add(found, reference, digest)
            if number is None:
                return
        if found.checksum is None:
            self._by_etag[found.etag] = number
        if has_digest:
            self.contents.uploaded[number] = found.uploaded
        elif self._is_first and self._rule is not None:
            self._tags.append(reference)
            self._put.append(found.uploaded)
            self._numbers.append(number)
        else:
            self.contents.tagged[number] = 1

    async def _add(self, found: StoredObject, reference: str, digest: str) -> int | None:
        """Add a new manifest and return its number; None when it cannot be read or changed since the listing."""
        references = manifests.references_in(found)
        if self._rules.mode is Mode.DELETED:
            references, digest = References(), digest or f"etag:{found.etag}"
        if references is None or not digest:
            # Manifests of serverless-registry, very large ones, and tags whose digest R2 does not know.
            self._calls.take()
            stored = await self._platform.storage.get(found.key)
            if stored is None:
                return None
            if stored.object.etag != found.etag:
                await stored.body.cancel()
                return None  # a push replaced it, and will make this run list again
            data = await stored.body.read(stored.object.size)
            if not digest:
                digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
                number = self.contents.find(digest)
                if number is not None:
                    return number
            try:
                manifest = parse_stored(data, stored.object.content_type)
            except RegistryError as error:
                self._cannot_read(reference, error)
                return None
            self._was_read(reference, manifest)
            references = references_of(manifest)
        return self.contents.add(digest, found.uploaded, references)

    def _cannot_read(self, reference: str, error: RegistryError) -> None:
        message = f"manifest {reference} cannot be read: {error.message}. It may refer to any blob"
        raise RegistryError(Problem.GC_UNSAFE, f"{message}, so delete this manifest first") from None

    def _was_read(self, reference: str, manifest: Manifest) -> None:
        """Handle a manifest whose bytes were read; a subclass may check it."""
