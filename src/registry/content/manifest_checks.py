"""Checks that everything a pushed manifest refers to exists, in a bounded number of R2 calls."""

from collections.abc import AsyncIterator, Collection, Iterable, Sequence

from registry.content import blobs, manifests
from registry.ports.platform import Platform
from registry.ports.storage import StoredObject
from registry.spec.errors import Problem, RegistryError
from registry.spec.manifest_format import Descriptor, Manifest, parse_stored
from registry.spec.manifest_references import HEX_DIGITS, References, hex_of, references_of
from registry.spec.names import ALGORITHMS, Digest, RepositoryName, parse_digest
from registry.storage import keys
from registry.storage.calls import Calls, OutOfCalls
from registry.storage.lookups import look_up
from registry.telemetry.log import log

MAX_NAMED = 20  # missing digests that one answer names: the check stops when it has found so many
MAX_DEPTH = 5  # levels of nested indexes that are checked; two occur in practice


async def check(
    platform: Platform, name: RepositoryName, manifest: Manifest, calls: Calls, *, sparse: bool
) -> frozenset[Digest]:
    """Check that everything the manifest refers to exists and has the size that its descriptor states.

    A `sparse` manifest may refer to missing content. Returns the digests that exist. Raises MANIFEST_BLOB_UNKNOWN and
    MANIFEST_INVALID.
    """
    checks = _Checks(platform, name, manifest, calls)
    try:
        await checks.look(until=None if sparse else MAX_NAMED)
    except OutOfCalls:
        if not sparse and not checks.missing:
            reason = f"the manifest refers to more content than one request can check: {calls.advice}"
            raise RegistryError(Problem.MANIFEST_INVALID, reason) from None
    checks.compare_sizes()
    if not sparse:
        missing = checks.missing or await checks.incomplete()
        if missing:
            raise unknown(digest for digest in checks.order if digest in missing)
    return frozenset(checks.sizes)


def unknown(digests: Iterable[Digest]) -> RegistryError:
    """Return MANIFEST_BLOB_UNKNOWN for digests that are missing, or whose own references are missing."""
    missing = list(digests)
    count = f"{len(missing)}" if len(missing) < MAX_NAMED else f"at least {len(missing)}"
    details = [{"digest": str(digest)} for digest in missing[:MAX_NAMED]]
    message = f"{Problem.MANIFEST_BLOB_UNKNOWN.message}: {count}; push the missing content first"
    return RegistryError(Problem.MANIFEST_BLOB_UNKNOWN, message, details=details)


async def read_references(platform: Platform, stored: StoredObject) -> References:
    """Return what a stored manifest refers to.

    The bytes are read for very large manifests and those of serverless-registry, whose metadata has no references.
    """
    references = manifests.references_in(stored)
    if references is not None:
        return references
    found = await platform.storage.get(stored.key)
    if found is None:
        return References()
    data = await found.body.read(found.object.size)
    try:
        return references_of(parse_stored(data, found.object.content_type))
    except RegistryError:
        return References()  # serverless-registry accepted it, but it is no valid manifest


class _Checks:
    """The check of one manifest: which of its references exist."""

    def __init__(self, platform: Platform, name: RepositoryName, manifest: Manifest, calls: Calls) -> None:
        self._platform = platform
        self._name = name
        self._manifest = manifest
        self._calls = calls
        self._children: dict[Digest, StoredObject] = {}
        self._descriptors: Sequence[Descriptor] = (*manifest.all_blobs, *manifest.children)
        self.order = list(dict.fromkeys(one.digest for one in self._descriptors))
        self.sizes: dict[Digest, int] = {}  # bytes of each digest that exists
        self.missing: set[Digest] = set()  # required digests that do not exist

    async def look(self, until: int | None) -> None:
        """Look for blobs and child manifests, until at least `until` are missing. Raises OutOfCalls."""
        for kind in (self._look_for_blobs, self._look_for_children):
            async for _ in kind():
                if until is not None and len(self.missing) >= until:
                    return

    async def _look_for_blobs(self) -> AsyncIterator[None]:
        required = {one.digest for one in self._manifest.blobs}
        names = {str(one.digest) for one in self._manifest.all_blobs}
        async for batch in look_up(self._platform, keys.blobs(self._name), names, self._calls):
            for name, stored in batch.items():
                digest, blob = parse_digest(name), None
                if stored is not None:
                    self._calls.take(1 if blobs.is_sr_link(stored) else 0)
                    blob = await blobs.resolve(self._platform, stored, digest)
                if blob is not None:
                    self.sizes[digest] = blob.size
                elif digest in required:
                    self.missing.add(digest)
            yield

    async def _look_for_children(self) -> AsyncIterator[None]:
        names = {str(one.digest) for one in self._manifest.children}
        async for batch in look_up(self._platform, keys.manifests(self._name), names, self._calls):
            for name, stored in batch.items():
                digest = parse_digest(name)
                if stored is None or manifests.is_tombstone(stored):
                    self.missing.add(digest)
                else:
                    self.sizes[digest], self._children[digest] = stored.size, stored
            yield

    def compare_sizes(self) -> None:
        """Compare the sizes of existing content with the descriptors. Raises MANIFEST_INVALID."""
        for descriptor in self._descriptors:
            size = self.sizes.get(descriptor.digest)
            if size is not None and descriptor.size not in (None, size):
                raise RegistryError(
                    Problem.MANIFEST_INVALID,
                    f"{descriptor.path}.size is {descriptor.size}, but {descriptor.digest} has {size} bytes",
                    details=[{"path": f"{descriptor.path}.size", "digest": str(descriptor.digest)}],
                )

    async def incomplete(self) -> set[Digest]:
        """Return the children that lack a blob or a child manifest, at any level down to MAX_DEPTH.

        A child may exist without them: its push may be in progress, or have failed during a garbage collection. When
        the R2 calls run out, the unchecked ones count as complete.
        """
        incomplete: set[Digest] = set()
        needed: dict[str, set[Digest]] = {}  # the children that need a blob, by its cut digest
        level = [(stored, {digest}) for digest, stored in self._children.items()]
        try:
            for _ in range(MAX_DEPTH):
                below: dict[str, set[Digest]] = {}  # the children that need a manifest, by its cut digest
                for stored, children in level:
                    references = await self._references(stored)
                    for cut in references.blobs - references.elsewhere:
                        needed.setdefault(cut, set()).update(children)
                    for cut in references.children:
                        below.setdefault(cut, set()).update(children)
                found = await self._find(keys.manifests(self._name), below)
                there = {cut: one for cut, one in found.items() if one is not None and not manifests.is_tombstone(one)}
                incomplete = incomplete.union(*(below[cut] for cut in below.keys() - there.keys()))
                level = [(stored, below[cut]) for cut, stored in there.items()]
            found = await self._find(keys.blobs(self._name), needed, with_metadata=False)
            incomplete = incomplete.union(*(needed[cut] for cut, stored in found.items() if stored is None))
        except OutOfCalls:
            log("children-not-checked", repository=self._name)
        return incomplete

    async def _references(self, stored: StoredObject) -> References:
        self._calls.take(1 if manifests.references_in(stored) is None else 0)
        return await read_references(self._platform, stored)

    async def _find(
        self, folder: str, cuts: Collection[str], *, with_metadata: bool = True
    ) -> dict[str, StoredObject | None]:
        """Find the object that begins with each cut digest. A cut digest lacks the algorithm, so all are tried."""
        found: dict[str, StoredObject | None] = dict.fromkeys(cuts)
        for algorithm in ALGORITHMS:
            names = {f"{algorithm}:{hex_of(cut)}": cut for cut, stored in found.items() if stored is None}
            length = len(algorithm) + 1 + HEX_DIGITS
            looking = look_up(self._platform, folder, names, self._calls, cut_to=length, with_metadata=with_metadata)
            async for batch in looking:
                found.update({names[name]: stored for name, stored in batch.items()})
        return found
