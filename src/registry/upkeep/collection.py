"""Collects the garbage of a repository, in one pass and one Worker invocation (docs/garbage-collection.md).

1. List the repository without touching the register: what do manifests refer to, and is there any garbage?
2. When a batch of garbage is found, write `mark` to the register, and list the manifests again for newer references. A
   push that comes from now on writes `aborted`.
3. Write `sweep`, only if no push came; otherwise go back to 2. Pushes wait from now on.
4. Delete the batch. Then write `mark` for the next batch, or `idle` after the last one.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from registry.content import blobs, gc_register, manifests
from registry.content.gc_register import Phase, Register
from registry.ports.platform import Platform
from registry.ports.retries import NEVER, sent_by
from registry.ports.storage import IN_FLIGHT, MAX_DELETE_KEYS, StorageBusy, StorageError, StoredObject
from registry.spec.endpoints import Mode
from registry.spec.errors import Problem, RegistryError
from registry.spec.names import RepositoryName, is_digest
from registry.storage import keys
from registry.storage.calls import Calls, pages
from registry.storage.walk import Repository
from registry.upkeep.garbage import (
    BLOBS,
    MANIFESTS,
    MIN_TOMBSTONE_AGE,
    REFERRERS,
    TAGS,
    TOMBSTONES,
    Garbage,
    Rules,
    cut_of,
)
from registry.upkeep.inventory import Inventory
from registry.upkeep.retention import RetentionRule

BATCH = 10_000  # objects deleted in one `sweep`, a second or two, for which pushes wait
_ATTEMPTS = 4  # to decide about a batch while pushes interrupt
_DELETE_DELAYS = (1.1, 2.2)  # seconds before the second and the third attempt: a busy R2 asks to wait one second
_ID_BYTES = 16
_REGISTER_CALLS = 3  # of a sweep: begin, renew the lease once, end


@dataclass(frozen=True, slots=True)
class Run:
    """A collection of one repository, with its rules. `found` is what a walk already found of the repository."""

    id: str
    name: RepositoryName
    rules: Rules
    retention: RetentionRule | None = None
    found: Repository | None = None


def begin(
    platform: Platform,
    name: RepositoryName,
    rules: Rules,
    *,
    retention: RetentionRule | None = None,
    found: Repository | None = None,
) -> Run:
    """Return a new run with a random id."""
    return Run(platform.random_hex(_ID_BYTES), name, rules, retention, found)


class _Candidate(NamedTuple):
    """An object that may be garbage.

    `name` is a tag, a digest, or a subject and a digest. `ref` is the key of the ref that belongs to a link.
    """

    kind: str
    name: str
    size: int = 0  # bytes
    ref: str = ""


class Collector:
    """Executes one run."""

    def __init__(self, platform: Platform, run: Run, calls: Calls) -> None:
        self._platform = platform
        self._storage = platform.storage
        self._run = run
        self._calls = calls
        self._inventory = Inventory(platform, run.name, calls, run.rules, run.retention)
        self._objects = None if run.found is None else run.found.objects
        self._held: Register | None = None  # the register as this run wrote it last
        self._garbage = Garbage()

    @property
    def manifests_seen(self) -> int:
        """The number of stored manifests, including those under tags."""
        return self._inventory.seen

    async def find(self) -> Garbage:
        """Find garbage without writing anything (dry run). Raises OutOfCalls."""
        await self._inventory.look(self._objects)
        async for some in self._candidates():
            self._note(some)
        return self._garbage

    async def collect(self) -> Garbage:
        """Delete garbage and return what was deleted.

        Raises OutOfCalls, and GC_BUSY when another run holds the register or pushes keep interrupting.
        """
        await self._inventory.look(self._objects)
        if self._objects is not None:
            # The walk's listing suffices to see that there is no garbage. Otherwise list again: it may be outdated.
            if not [one async for some in self._candidates() for one in some]:
                return self._garbage
            self._objects = None
        batch: list[_Candidate] = []
        try:
            async for some in self._candidates():
                batch += some
                if len(batch) >= BATCH:
                    await self._sweep(batch, Phase.MARK)
                    batch.clear()
            if batch:
                await self._sweep(batch, Phase.IDLE)
        finally:
            if self._held is not None and self._held.phase is Phase.MARK:
                await self._write(Phase.IDLE)
        return self._garbage

    def _note(self, candidates: Sequence[_Candidate]) -> None:
        for one in candidates:
            self._garbage.note(one.kind, one.name, one.size)

    # ------------------------------------------------------------------ finding candidates
    async def _candidates(self) -> AsyncIterator[Sequence[_Candidate]]:
        """Yield candidates in the order of deletion: manifests before blobs, so that no manifest loses its blobs."""
        tags = self._inventory.expired
        for at in range(0, len(tags), BATCH):
            yield [_Candidate(TAGS, tag) for tag in tags[at : at + BATCH]]
        if self._inventory.has_tombstones or 0 in self._inventory.alive:
            async for objects in self._pages("manifests"):
                yield [*self._manifests(objects)]
        async for objects in self._pages("_referrers"):
            yield [*self._referrers(objects)]
        if self._run.rules.mode is not Mode.DELETED:
            async for objects in self._pages("blobs"):
                yield await self._blobs(objects)

    async def _pages(self, folder: str) -> AsyncIterator[Sequence[StoredObject]]:
        found, prefix = self._run.found, keys.folder(self._run.name, folder)
        if found is None or folder in found.has:
            async for objects in pages(self._platform, self._calls, prefix, self._objects):
                yield objects

    def _manifests(self, objects: Sequence[StoredObject]) -> Iterator[_Candidate]:
        age = max(self._run.rules.grace, MIN_TOMBSTONE_AGE)
        for found in objects:
            reference = found.key[len(keys.manifests(self._run.name)) :]
            if "/" in reference:
                continue  # belongs to a repository whose name contains "/manifests/"
            if manifests.is_tombstone(found):
                if self._platform.now() - found.uploaded >= age:
                    self._inventory.going[reference] = found.uploaded
                    yield _Candidate(TOMBSTONES, reference)
            elif is_digest(reference) and self._inventory.goes(reference):
                yield _Candidate(MANIFESTS, reference)

    def _referrers(self, objects: Sequence[StoredObject]) -> Iterator[_Candidate]:
        for found in objects:
            name = found.key[len(keys.folder(self._run.name, "_referrers")) :]
            if self._is_old(found) and is_digest(name.partition("/")[2]):
                candidate = _Candidate(REFERRERS, name)
                if self._is_garbage(candidate):
                    yield candidate

    async def _blobs(self, objects: Sequence[StoredObject]) -> list[_Candidate]:
        prefix, is_alive = len(keys.blobs(self._run.name)), self._inventory.alive
        index, candidates = self._inventory.contents.blobs, []
        links: list[StoredObject] = []
        for found in objects:
            digest = found.key[prefix:]
            if not is_digest(digest) or index.has(cut_of(digest), is_alive) or not self._is_old(found):
                continue
            if found.size == blobs.LINK_SIZE:
                links.append(found)
            else:
                candidates.append(_Candidate(BLOBS, digest, found.size))
        return candidates + await self._links(links)

    async def _links(self, links: Sequence[StoredObject]) -> list[_Candidate]:
        """Return candidates for objects of a link's size, with their refs.

        When too few R2 calls are left to read the links' metadata, the sweeper deletes the refs later.
        """
        prefix, candidates = len(keys.blobs(self._run.name)), []
        for at in range(0, len(links), IN_FLIGHT):
            some: Sequence[StoredObject | None] = links[at : at + IN_FLIGHT]
            if self._objects is None and 2 * self._calls.left > self._calls.taken:  # a third is left for deleting
                self._calls.take(len(some))
                some = await asyncio.gather(*(self._storage.head(found.key) for found in links[at : at + len(some)]))
            for found in some:
                if found is not None:
                    size, ref = self._behind(found)
                    candidates.append(_Candidate(BLOBS, found.key[prefix:], size, ref))
        return candidates

    def _behind(self, found: StoredObject) -> tuple[int, str]:
        """Return the size of the data object behind a link, and the key of the link's ref; "" when there is none."""
        try:
            link = blobs.link_of(found)
        except StorageError:
            link = None  # the link is damaged
        if link is None:
            return found.size, ""
        return link[0].size, keys.ref(link[0].id, link[1], self._run.name) if link[1] else ""

    def _is_old(self, found: StoredObject) -> bool:
        return self._platform.now() - found.uploaded >= self._run.rules.grace

    def _is_garbage(self, candidate: _Candidate) -> bool:
        """Whether the candidate is garbage, according to the newest listing of the manifests."""
        inventory = self._inventory
        if candidate.kind in (TAGS, TOMBSTONES):
            return candidate.name in inventory.going
        if candidate.kind == BLOBS:
            return not inventory.contents.blobs.has(cut_of(candidate.name), inventory.alive)
        if candidate.kind == MANIFESTS:
            return inventory.goes(candidate.name)
        return not inventory.stays(candidate.name.partition("/")[2])

    # ------------------------------------------------------------------ deleting candidates
    async def _sweep(self, candidates: Sequence[_Candidate], then: Phase) -> None:
        """Delete a batch, then write the phase `then` to the register."""
        for _ in range(_ATTEMPTS):
            if self._held is None:
                await self._mark()
                await self._inventory.look_again()
            batch = [one for one in candidates if self._is_garbage(one)]
            if not batch:
                return
            deletes = _deletes(self._run.name, batch)
            self._calls.take(len(deletes) + _REGISTER_CALLS)
            if not await self._write(Phase.SWEEP):
                continue
            is_certain = True
            for some in deletes:
                is_certain = await self._delete(some) and is_certain
            self._note(batch)
            for one in batch:
                self._inventory.going.pop(one.name, None)
            if is_certain:
                await self._write(then)
            else:
                # R2 may still execute a failed delete. So the register stays in `sweep` until lease and margin end.
                self._held = None
            return
        raise RegistryError(Problem.GC_BUSY, "pushes kept interrupting the garbage collection; try again later")

    async def _mark(self) -> None:
        self._calls.take(2)
        seen = await gc_register.read(self._platform, self._run.name)
        is_ours = seen.run == self._run.id and seen.phase is not Phase.SWEEP
        if is_ours or gc_register.may_take_over(self._platform, seen):
            self._held = await gc_register.swap(self._platform, self._run.name, seen, Phase.MARK, self._run.id)
        if self._held is None:
            raise RegistryError(Problem.GC_BUSY)

    async def _write(self, phase: Phase) -> bool:
        """Write the next phase to the register; False when another request changed the register."""
        assert self._held is not None
        held, self._held = self._held, None
        self._held = await gc_register.swap(self._platform, self._run.name, held, phase, self._run.id)
        return self._held is not None

    async def _delete(self, batch: Sequence[str]) -> bool:
        """Delete keys; return whether R2 answered every attempt, so that none can still take effect later.

        An attempt begins only when the lease lasts longer than MARGIN_SECONDS; else the lease is renewed first.
        """
        is_certain = True
        for delay in (*_DELETE_DELAYS, None):
            assert self._held is not None
            is_short = self._held.lease - self._platform.now() <= gc_register.MARGIN_SECONDS
            if is_short and not await self._write(Phase.SWEEP):
                raise RegistryError(Problem.GC_BUSY)
            try:
                with sent_by(NEVER):
                    await self._storage.delete(batch)
            except StorageError as error:
                is_certain = is_certain and isinstance(error, StorageBusy)
                if delay is None:
                    raise
                await self._platform.sleep(delay)
            else:
                break
        return is_certain


def _deletes(name: RepositoryName, batch: Sequence[_Candidate]) -> list[list[str]]:
    """Return the keys to delete, in order: tags, manifests, everything else, and refs after their links."""
    folders = {kind: keys.manifests(name) for kind in (TAGS, MANIFESTS, TOMBSTONES)}
    folders |= {REFERRERS: keys.folder(name, "_referrers"), BLOBS: keys.blobs(name)}
    steps = (
        *([folders[kind] + one.name for one in batch if one.kind == kind] for kind in (TAGS, MANIFESTS)),
        [folders[one.kind] + one.name for one in batch if one.kind not in (TAGS, MANIFESTS)],
        [one.ref for one in batch if one.ref],
    )
    return [step[at : at + MAX_DELETE_KEYS] for step in steps for at in range(0, len(step), MAX_DELETE_KEYS)]
