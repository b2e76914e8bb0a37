"""Whether a repository is whole: every manifest's blobs are there with the right size, every link has its data."""

from dataclasses import dataclass, field

from registry import blobs, keys, manifests
from registry.calls import Calls, OutOfCalls
from registry.errors import RegistryError
from registry.manifest_format import Manifest, parse_stored
from registry.names import Digest, Reference, RepositoryName, parse_reference
from registry.platform import Platform
from registry.storage import StorageError, StoredObject

_MAX_PROBLEMS = 200  # of one answer


@dataclass(slots=True)
class Verified:
    """What was looked at, and what is wrong with it. `last` is where to go on, None at the end."""

    manifests: int = 0
    blobs: int = 0
    problems: list[dict[str, str]] = field(default_factory=list)
    last: Reference | None = None


async def verify(platform: Platform, name: RepositoryName, after: Reference | None, calls: Calls) -> Verified:
    """Look at the manifests behind `after`, as many as the calls allow."""
    return await _Verification(platform, name, calls).run(after)


class _Verification:
    def __init__(self, platform: Platform, name: RepositoryName, calls: Calls) -> None:
        self._platform = platform
        self._name = name
        self._calls = calls
        self._sizes: dict[Digest, int | None] = {}
        self._found = Verified()

    async def run(self, after: Reference | None) -> Verified:
        prefix = keys.manifests(self._name)
        position = after
        while True:
            self._calls.take()
            start = None if position is None else f"{prefix}{position}"
            page = await self._platform.storage.list(prefix, start_after=start)
            for item in page.objects:
                rest = item.key.removeprefix(prefix)
                if "/" in rest:
                    continue  # of a repository that is named like this folder
                reference = parse_reference(rest)
                try:
                    if not manifests.is_tombstone(item):
                        await self._look_at(item, reference)
                except OutOfCalls:
                    self._found.last = position
                    if position == after:
                        # One manifest with more blobs than a request has calls: what could be looked at was.
                        self._problem(str(reference), "has more blobs than one request can look at")
                        self._found.last = reference
                    return self._found
                position = reference
                if len(self._found.problems) >= _MAX_PROBLEMS:
                    self._found.last = position
                    return self._found
            if page.cursor is None:
                return self._found

    def _problem(self, manifest: str, problem: str) -> None:
        self._found.problems.append({"manifest": manifest, "problem": problem})

    async def _look_at(self, item: StoredObject, reference: Reference) -> None:
        self._calls.take()
        stored = await self._platform.storage.get(item.key)
        if stored is None:
            return  # deleted meanwhile
        data = await stored.body.read(stored.object.size)
        try:
            manifest = parse_stored(data, stored.object.content_type)
            if isinstance(reference, Digest):
                manifests.receive_stored(data, stored.object.content_type, reference)
        except RegistryError as error:
            self._problem(str(reference), error.message)
            return
        problems = await self._problems_of(manifest)
        self._found.manifests += 1
        for problem in problems:
            self._problem(str(reference), problem)

    async def _problems_of(self, manifest: Manifest) -> list[str]:
        problems = []
        for descriptor in manifest.blobs:
            size = await self._size_of(descriptor.digest)
            if size is None:
                problems.append(f"blob {descriptor.digest} is not there")
            elif descriptor.size not in (None, size):
                problems.append(f"blob {descriptor.digest} has {size} bytes, and the manifest says {descriptor.size}")
        for descriptor in manifest.children:
            self._calls.take()
            if await manifests.find(self._platform, self._name, descriptor.digest) is None:
                problems.append(f"manifest {descriptor.digest} is not there")
        return problems

    async def _size_of(self, digest: Digest) -> int | None:
        """The size of a blob whose bytes are there; its link is followed to its end."""
        if digest not in self._sizes:
            self._calls.take(3)
            try:
                blob = await blobs.find(self._platform, self._name, digest)
                if blob is not None and blob.data is not None:
                    data = await self._platform.storage.head(blob.key)
                    if data is None or data.size != blob.size:
                        blob = None
            except StorageError:
                blob = None
            self._sizes[digest] = None if blob is None else blob.size
            self._found.blobs += 1
        return self._sizes[digest]
