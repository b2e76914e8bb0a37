"""Collecting a repository's garbage, a bounded number of R2 calls a request (docs/garbage-collection.md).

1. Look, without a register: is there anything that may go?
2. If so, write `mark`, and look again. A push that comes from now on writes `aborted`.
3. `mark` to `sweep`: only if no push came; else decide again with what was pushed. Pushes wait from now on.
4. Delete: manifests first, then what nothing refers to, links before their refs.
5. `sweep` to `idle`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from registry import blobs, gc_register, keys, manifests
from registry.calls import Calls
from registry.errors import Problem, RegistryError
from registry.garbage import Blob, Contents, Garbage, Manifest, Mode, Referrer, Rules, find_garbage
from registry.gc_register import Phase, Register
from registry.log import log
from registry.manifest_format import parse_stored
from registry.manifest_references import References, references_of
from registry.names import RepositoryName, parse_digest
from registry.platform import Platform
from registry.storage import MAX_DELETE_KEYS, Attributes, StorageError, StoredObject

MAX_SWEPT = 4_000  # objects of each kind that one run deletes: a sweep is one request's
_ATTEMPTS = 4  # at deciding while pushes come
_ID_BYTES = 16


@dataclass(slots=True)
class Run:
    """A collection, from one request to the next."""

    id: str
    name: RepositoryName
    rules: Rules
    is_dry: bool = False
    mark: str = ""  # etag of the register under which it looks; "" while nothing is marked
    listed: set[str] = field(default_factory=set)  # what was listed to its end
    cursors: dict[str, str] = field(default_factory=dict)
    contents: Contents = field(default_factory=Contents)

    def look_again(self, what: Sequence[str] = ("manifests", "referrers", "blobs")) -> None:
        """Forget what was listed; what manifests refer to stays known."""
        for kind in what:
            self.listed.discard(kind)
            self.cursors.pop(kind, None)
            getattr(self.contents, kind).clear()


def begin(platform: Platform, name: RepositoryName, rules: Rules, *, is_dry: bool = False) -> Run:
    """A new run; a dry one is only to look."""
    return Run(platform.random_hex(_ID_BYTES), name, rules, is_dry)


class Collector:
    """One request's work at a run."""

    def __init__(self, platform: Platform, run: Run, calls: Calls) -> None:
        self._platform = platform
        self._storage = platform.storage
        self._run = run
        self._calls = calls

    async def find(self) -> Garbage:
        """What may go, without a trace. Raises OutOfCalls."""
        await self._look()
        return self._garbage()

    async def collect(self) -> Garbage:
        """Find and delete; what was deleted. Raises OutOfCalls, and GC_BUSY when another run or pushes are faster."""
        run = self._run
        if not run.mark:
            if not await self.find():
                return Garbage()
            run.mark = await self._write_mark(await self._read_register())
            run.look_again()
        for _ in range(_ATTEMPTS):
            garbage = (await self.find()).limited(MAX_SWEPT)
            batches = _batches(run.name, garbage)
            self._calls.take(len(batches) + 4)  # the register: read, sweep, renewed at most once, idle
            seen = await gc_register.read(self._platform, run.name)
            if seen.run == run.id and seen.phase is Phase.MARK and seen.etag == run.mark:
                if not garbage:
                    await gc_register.swap(self._platform, run.name, seen, Phase.IDLE, run.id)
                    return garbage
                held = await gc_register.swap(self._platform, run.name, seen, Phase.SWEEP, run.id)
                if held is not None:
                    await self._sweep(held, batches)
                    return garbage
            self._calls.left += len(batches)
            # A push came: what it stored counts, and what was found before may only shrink.
            run.mark = await self._write_mark(await self._read_register())
            run.look_again(("manifests",))
        raise RegistryError(Problem.GC_BUSY, "pushes come faster than garbage can be told from them; try again later")

    # ------------------------------------------------------------------ the register
    async def _read_register(self) -> Register:
        self._calls.take(2)
        return await gc_register.read(self._platform, self._run.name)

    async def _write_mark(self, seen: Register) -> str:
        run = self._run
        is_ours = seen.run == run.id and seen.phase is not Phase.SWEEP
        if not is_ours and not gc_register.may_take_over(self._platform, seen):
            raise RegistryError(Problem.GC_BUSY)
        marked = await gc_register.swap(self._platform, run.name, seen, Phase.MARK, run.id)
        if marked is None or marked.etag is None:
            raise RegistryError(Problem.GC_BUSY)
        return marked.etag

    async def _sweep(self, held: Register, batches: Sequence[Sequence[str]]) -> None:
        """Delete, each batch only with more of the lease left than a call may take."""
        for batch in batches:
            if held.lease - self._platform.now() <= gc_register.MARGIN_SECONDS:
                renewed = await gc_register.swap(self._platform, self._run.name, held, Phase.SWEEP, self._run.id)
                if renewed is None:
                    raise RegistryError(Problem.GC_BUSY)
                held = renewed
            await self._storage.delete(batch)
        await gc_register.swap(self._platform, self._run.name, held, Phase.IDLE, self._run.id)

    # ------------------------------------------------------------------ looking
    def _garbage(self) -> Garbage:
        return find_garbage(self._run.contents, self._run.rules, self._platform.now())

    async def _look(self) -> None:
        # Entries of referrers before manifests: a push writes them in the other order.
        await self._list("referrers", f"{self._run.name}/_referrers/", self._see_referrer, with_metadata=False)
        await self._list("manifests", keys.manifests(self._run.name), self._see_manifest, with_metadata=True)
        await self._read_unknown()
        await self._list("blobs", keys.blobs(self._run.name), self._see_blob, with_metadata=True)

    async def _list(self, kind: str, prefix: str, see: Any, *, with_metadata: bool) -> None:
        run = self._run
        while kind not in run.listed:
            self._calls.take()
            page = await self._storage.list(prefix, cursor=run.cursors.get(kind), with_metadata=with_metadata)
            for found in page.objects:
                rest = found.key.removeprefix(prefix)
                if kind == "referrers" or "/" not in rest:  # else of a repository that is named like this folder
                    see(found, rest)
            if page.cursor is None:
                run.listed.add(kind)
            else:
                run.cursors[kind] = page.cursor

    def _see_manifest(self, found: StoredObject, reference: str) -> None:
        contents = self._run.contents
        digest = reference if ":" in reference else str(found.checksum or "") or None
        is_tombstone = manifests.is_tombstone(found)
        contents.manifests[reference] = Manifest(reference, found.etag, found.uploaded, digest, is_tombstone)
        if not is_tombstone:
            references = manifests.references_in(found)
            if references is not None:
                contents.references[found.etag] = references

    async def _read_unknown(self) -> None:
        """Read the manifests whose metadata does not say what they refer to: SR's, and very large ones."""
        contents = self._run.contents
        for one in list(contents.manifests.values()):
            if one.is_tombstone or one.etag in contents.references:
                continue
            self._calls.take()
            key = keys.manifests(self._run.name) + one.reference
            stored = await self._storage.get(key)
            if stored is None or stored.object.etag != one.etag:
                if stored is not None:
                    await stored.body.cancel()
                # It was deleted since, or another one pushed; and that would make us decide again.
                del contents.manifests[one.reference]
                continue
            data = await stored.body.read(stored.object.size)
            try:
                manifest = parse_stored(data, stored.object.content_type)
            except RegistryError as error:
                message = f"manifest {one.reference} cannot be read: {error.message}. Nobody knows what is garbage"
                raise RegistryError(Problem.GC_UNSAFE, f"{message} until it is deleted") from None
            contents.references[one.etag] = references_of(manifest)

    def _see_referrer(self, found: StoredObject, rest: str) -> None:
        subject, _, digest = rest.partition("/")
        self._run.contents.referrers.append(Referrer(subject, digest, found.uploaded))

    def _see_blob(self, found: StoredObject, digest: str) -> None:
        run = self._run
        if self._platform.now() - found.uploaded < run.rules.grace or blobs.is_sr_link(found):
            return
        try:
            link = blobs.link_of(found)
            parse_digest(digest)
        except (StorageError, RegistryError):
            log("not-collected", key=found.key, reason="it cannot be understood")
            return
        blob = Blob(digest, found.size, found.uploaded)
        if link is not None:
            blob = replace(blob, size=link[0].size, data_id=link[0].id, ref=link[1])
        run.contents.blobs.append(blob)


def _batches(name: RepositoryName, garbage: Garbage) -> list[list[str]]:
    """The keys to delete, in order: who breaks off in between leaves garbage, and no manifest without its blobs."""
    prefix = keys.manifests(name)
    steps = (
        [prefix + one.reference for one in garbage.manifests],
        [
            *(f"{name}/_referrers/{one.subject}/{one.digest}" for one in garbage.referrers),
            *(prefix + one.reference for one in garbage.tombstones),
            *(f"{keys.blobs(name)}{one.digest}" for one in garbage.blobs),
        ],
        [keys.ref(one.data_id, one.ref, name) for one in garbage.blobs if one.ref],
    )
    return [step[at : at + MAX_DELETE_KEYS] for step in steps for at in range(0, len(step), MAX_DELETE_KEYS)]


# ---------------------------------------------------------------------- between requests
async def save(platform: Platform, run: Run) -> None:
    """Keep a run for another request."""
    value = asdict(run)
    value["rules"]["mode"] = run.rules.mode.value
    text = json.dumps(value, default=sorted)
    nonce = Attributes("application/json", {"nonce": platform.random_hex(8)})
    await platform.storage.put(keys.gc_run(run.id), text.encode(), nonce)


async def load(platform: Platform, name: RepositoryName, run_id: str) -> Run | None:
    """A run that was kept; None when there is none of that id for this repository."""
    stored = await platform.storage.get(keys.gc_run(run_id))
    if stored is None:
        return None
    value: dict[str, Any] = json.loads(await stored.body.read(stored.object.size))
    if value["name"] != name:
        return None
    rules, contents = value["rules"], value["contents"]
    return Run(
        value["id"],
        name,
        Rules(Mode(rules["mode"]), rules["grace"], rules["untagged_age"], frozenset(rules["without_tags"])),
        value["is_dry"],
        value["mark"],
        set(value["listed"]),
        value["cursors"],
        Contents(
            {reference: Manifest(**one) for reference, one in contents["manifests"].items()},
            {
                etag: References(frozenset(one["blobs"]), frozenset(one["children"]), one["subject"])
                for etag, one in contents["references"].items()
            },
            [Referrer(**one) for one in contents["referrers"]],
            [Blob(**one) for one in contents["blobs"]],
        ),
    )


async def forget(platform: Platform, run_id: str) -> None:
    """A run is over."""
    await platform.storage.delete([keys.gc_run(run_id)])
