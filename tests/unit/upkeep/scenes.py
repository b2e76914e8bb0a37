"""Concurrent actors in a repository, what they acknowledge, and the invariants that must hold afterwards."""

import asyncio
import contextlib
import io
import itertools
import json
import multiprocessing
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from unittest import mock

from registry.content import blobs, manifest_deletion, manifest_push, manifests
from registry.ports.platform import Platform
from registry.ports.storage import MAX_LIST_KEYS, NO_ATTRIBUTES
from registry.spec.endpoints import Mode
from registry.spec.errors import Problem, RegistryError
from registry.spec.names import RepositoryName, Tag, parse_digest
from registry.storage import keys
from registry.storage.calls import Calls
from registry.upkeep import collection, sweeper
from registry.upkeep.collection import Collector
from registry.upkeep.garbage import Garbage, Rules
from registry.upkeep.retention import parse_rules
from registry.uploads.log import State
from registry.uploads.upload import Upload
from tests.fakes import r2
from tests.fakes.client import digest_of
from tests.fakes.streams import FakeSource
from tests.images import INDEX, MANIFEST, descriptor, image
from tests.interleavings import Actor, Scene, Trouble, World, new_world
from tests.invariants import PART, small_parts

R, S = RepositoryName("r"), RepositoryName("s")
SMALL, OLD, KEPT, BASE = b"small", b"of an old manifest", b"of a tagged manifest", b"may lie elsewhere"
LARGE, MOUNTED, CHUNKED = bytes(PART + 1), bytes(PART + 2), bytes(2 * PART + 3)
DAY = 86_400.0
SESSION = "00000000-0000-4000-8000-000000000000"
counted = {"schedules": 0}


def _image(config: bytes, *layers: bytes) -> bytes:
    return json.dumps(image(config, layers)).encode()


NEW = _image(SMALL, LARGE)  # its blobs exist, and no manifest refers to them
UNTAGGED = _image(OLD)  # pushed long ago, without a tag
TAGGED = _image(KEPT)
OF_MOUNT = _image(SMALL, MOUNTED)
OF_CHUNKS = _image(OLD, CHUNKED)
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
OF_WINDOWS = json.dumps(image(SMALL, []) | {"layers": [descriptor(BASE, FOREIGN)]}).encode()


def _index(child: bytes, media_type: str) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(child, media_type)]}).encode()


OVER_CHILD = _index(UNTAGGED, MANIFEST)
OVER_INDEX = _index(OVER_CHILD, INDEX)
BLOBS: Mapping[bytes, tuple[bytes, ...]] = {
    NEW: (SMALL, LARGE),
    UNTAGGED: (OLD,),
    TAGGED: (KEPT,),
    OF_MOUNT: (SMALL, MOUNTED),
    OF_CHUNKS: (OLD, CHUNKED),
    OF_WINDOWS: (SMALL, BASE),
    OVER_CHILD: (OLD,),
    OVER_INDEX: (OLD,),
}
# All descendants of an index, not only its children.
CHILDREN: Mapping[bytes, tuple[bytes, ...]] = {OVER_CHILD: (UNTAGGED,), OVER_INDEX: (OVER_CHILD, UNTAGGED)}


# ---------------------------------------------------------------------- actors
async def put(platform: Platform, manifest: bytes, *tags: str) -> None:
    """Push a manifest with tags."""
    media_type = INDEX if manifest in CHILDREN else MANIFEST
    received = manifests.receive(manifest, media_type, parse_digest(digest_of(manifest)))
    await manifest_push.put(platform, R, received, [Tag(tag) for tag in tags], sparse=False, r2_calls=900)


async def upload(platform: Platform, name: RepositoryName, data: bytes) -> None:
    """Push a whole blob."""
    await blobs.put_whole(platform, name, parse_digest(digest_of(data)), FakeSource([data], len(data)))


async def put_new(platform: Platform) -> None:
    """Push a manifest whose blobs exist."""
    await put(platform, NEW, "new")


async def put_two_tags(platform: Platform) -> None:
    """Push that manifest with two tags."""
    await put(platform, NEW, "new", "also")


async def put_tagged_again(platform: Platform) -> None:
    """Push an existing manifest again, with its tag."""
    await put(platform, TAGGED, "kept")


async def tag_untagged(platform: Platform) -> None:
    """Push a tag for an old manifest."""
    await put(platform, UNTAGGED, "old")


async def put_index(platform: Platform) -> None:
    """Push an index of an old manifest."""
    await put(platform, OVER_CHILD, "index")


async def put_index_of_index(platform: Platform) -> None:
    """Push an untagged index and then an index of it, in the order of clients."""
    await put(platform, OVER_CHILD)
    await put(platform, OVER_INDEX, "outer")


async def put_by_digest(platform: Platform) -> None:
    """Push a manifest without a tag, like a child, a signature, or a manifest that is tagged later."""
    await put(platform, NEW)


async def put_untagged_again(platform: Platform) -> None:
    """Push an old manifest again, without a tag."""
    await put(platform, UNTAGGED)


async def put_foreign(platform: Platform) -> None:
    """Push a manifest with a foreign layer, which may be missing, but exists.

    The layer stays if the push saw it. If a collection deleted it earlier, it looks as if it had never existed.
    """
    digest = parse_digest(digest_of(OF_WINDOWS))
    push = manifest_push.Push(platform, R, manifests.receive(OF_WINDOWS, MANIFEST, digest), sparse=False, r2_calls=900)
    await push.begin()
    await push.settle([digest], [digest])
    await push.settle([Tag("windows")], [digest, Tag("windows")])
    if parse_digest(digest_of(BASE)) not in push.present:
        raise RegistryError(Problem.UNAVAILABLE, "collected before the push looked")


async def upload_and_put(platform: Platform) -> None:
    """Push the blobs and a manifest without a tag."""
    await upload(platform, R, SMALL)
    await upload(platform, R, LARGE)
    await put(platform, NEW)


async def push(platform: Platform) -> None:
    """Push a blob and its manifest."""
    await upload(platform, R, LARGE)
    await put(platform, NEW, "new")


async def push_in_chunks(platform: Platform) -> None:
    """Push a blob in a session of two chunks, and its manifest."""
    async with Upload(platform, R, SESSION) as upload:
        state = State()
        for data in (CHUNKED[: PART + 1], CHUNKED[PART + 1 :]):
            state = await upload.append(state, FakeSource([data]), None)
            await upload.resume(state.entry)
        await upload.close(parse_digest(digest_of(CHUNKED)))
    await put(platform, OF_CHUNKS, "chunks")


async def mount_and_put(platform: Platform) -> None:
    """Mount (or else upload) a blob of another repository, and push a manifest that needs it."""
    if not await blobs.mount(platform, R, parse_digest(digest_of(MOUNTED)), S):
        await upload(platform, R, MOUNTED)
    await put(platform, OF_MOUNT, "mounted")


async def delete_untagged(platform: Platform) -> None:
    """Delete an untagged manifest by its digest."""
    await manifest_deletion.delete_manifest(platform, R, parse_digest(digest_of(UNTAGGED)))


async def delete_tagged(platform: Platform) -> None:
    """Delete a tagged manifest by its digest."""
    await manifest_deletion.delete_manifest(platform, R, parse_digest(digest_of(TAGGED)))


async def delete_new(platform: Platform) -> None:
    """Delete the manifest that other actors push."""
    await manifest_deletion.delete_manifest(platform, R, parse_digest(digest_of(NEW)))


async def delete_tag(platform: Platform) -> None:
    """Delete a tag."""
    await manifest_deletion.delete_tag(platform, R, Tag("kept"))


async def delete_blob(platform: Platform) -> None:
    """Delete a large blob of the other repository, from which it is mounted."""
    stored = await blobs.find_own(platform, S, parse_digest(digest_of(MOUNTED)))
    if stored is not None:
        await blobs.delete(platform, S, stored)


async def _collect(platform: Platform, mode: Mode) -> Garbage:
    return await Collector(platform, collection.begin(platform, R, Rules(mode, grace=0)), Calls(200)).collect()


async def collect_unreferenced(platform: Platform) -> Garbage:
    """Collect garbage in mode `unreferenced`, without a grace period."""
    return await _collect(platform, Mode.UNREFERENCED)


async def collect_untagged(platform: Platform) -> Garbage:
    """Collect garbage in mode `untagged`, without a grace period."""
    return await _collect(platform, Mode.UNTAGGED)


async def collect_with_grace(platform: Platform) -> Garbage:
    """Collect garbage in mode `untagged`, with a grace period."""
    rules = Rules(Mode.UNTAGGED, grace=int(DAY), untagged_age=int(DAY))
    return await Collector(platform, collection.begin(platform, R, rules), Calls(200)).collect()


async def retire(platform: Platform) -> None:
    """Apply a retention rule that deletes the tag "kept", unless it was pushed since yesterday."""
    others = ["new", "also", "old", "index", "outer", "windows", "chunks", "mounted"]
    text = json.dumps([{"repositories": "**", "keep_days": 1, "keep_tags": others}])
    rules = Rules(Mode.DELETED, grace=0)
    run = collection.begin(platform, R, rules, retention=parse_rules(text)[0])
    await Collector(platform, run, Calls(200)).collect()


async def sweep(platform: Platform) -> None:
    """Run a step of the sweeper."""
    await sweeper.sweep_data(platform, Calls(), "", sweeper.Swept())


@dataclass(frozen=True, slots=True)
class Kind:
    """An actor, with what it acknowledges when it succeeds, and what it deletes."""

    act: Actor
    acknowledges: tuple[bytes, tuple[str, ...]] | None = None
    deletes: frozenset[bytes] = frozenset()
    deletes_tags: frozenset[str] = frozenset()
    retires: frozenset[str] = frozenset()  # tags that it deletes, unless they were pushed since


KINDS = [
    Kind(put_new, (NEW, ("new",))),
    Kind(put_two_tags, (NEW, ("new", "also"))),
    Kind(put_tagged_again, (TAGGED, ("kept",))),
    Kind(tag_untagged, (UNTAGGED, ("old",))),
    Kind(put_index, (OVER_CHILD, ("index",))),
    Kind(put_index_of_index, (OVER_INDEX, ("outer",))),
    Kind(put_by_digest, (NEW, ())),
    Kind(put_untagged_again, (UNTAGGED, ())),
    Kind(upload_and_put, (NEW, ())),
    Kind(put_foreign, (OF_WINDOWS, ("windows",))),
    Kind(push, (NEW, ("new",))),
    Kind(push_in_chunks, (OF_CHUNKS, ("chunks",))),
    Kind(mount_and_put, (OF_MOUNT, ("mounted",))),
    Kind(delete_untagged, deletes=frozenset({UNTAGGED})),
    Kind(delete_tagged, deletes=frozenset({TAGGED})),
    Kind(delete_new, deletes=frozenset({NEW})),
    Kind(delete_tag, deletes_tags=frozenset({"kept"})),
    Kind(delete_blob),
    Kind(collect_unreferenced),
    Kind(collect_untagged),
    Kind(collect_with_grace),
    Kind(retire, retires=frozenset({"kept"})),
    Kind(sweep),
]
BY_ACT = {kind.act: kind for kind in KINDS}
COLLECTORS = (collect_unreferenced, collect_untagged)
ALL_COLLECTORS = (*COLLECTORS, collect_with_grace)


# ---------------------------------------------------------------------- the bucket
async def _fill(world: World) -> None:
    platform = world.platform()
    for data in (SMALL, LARGE, OLD, KEPT, BASE):
        await upload(platform, R, data)
    await upload(platform, S, MOUNTED)
    await put(platform, UNTAGGED)
    await put(platform, TAGGED, "kept")
    # A deleted manifest, which left tombstones, and a data object without a link.
    await put(platform, NEW, "new")
    await manifest_deletion.delete_manifest(platform, R, parse_digest(digest_of(NEW)))
    world.bucket.seed(keys.data("0" * 32), b"lost", NO_ATTRIBUTES, None)
    # A repository whose name is a folder of the other one.
    await upload(platform, RepositoryName(f"{R}/blobs"), LARGE)


def _template() -> World:
    world = new_world(0)
    asyncio.run(_fill(world))
    return world


templates: list[World] = []


def begin() -> World:
    """Return the world three days after it was filled."""
    if not templates:
        with scaled_down():
            templates.append(_template())
    world = new_world(3)
    world.bucket.objects = dict(templates[0].bucket.objects)
    return world


# ---------------------------------------------------------------------- invariants
def bytes_at(world: World, key: str) -> bytes | None:
    """Return the bytes at a key, read through its link if it has one."""
    found = world.bucket.objects.get(key)
    if found is None:
        return None
    target = found.attributes.metadata.get("target")
    if target is None:
        return found.data
    data = world.bucket.objects.get(keys.data(target))
    return None if data is None else data.data


def _has_blob(world: World, data: bytes) -> bool:
    return bytes_at(world, f"{R}/blobs/{digest_of(data)}") == data


def at(world: World, reference: str) -> bytes:
    """Return the manifest at a tag or digest."""
    return bytes_at(world, f"{R}/manifests/{reference}") or b""


def check_whole(world: World, manifest: bytes, deleted: frozenset[bytes]) -> None:
    """Check that a manifest exists with everything that it refers to."""
    if deleted.intersection(CHILDREN.get(manifest, ())):
        return  # an actor deleted a child on purpose
    assert at(world, digest_of(manifest)) == manifest, "a manifest is gone"
    for data in BLOBS[manifest]:
        assert _has_blob(world, data), "a blob of a manifest is gone"
    for child in CHILDREN.get(manifest, ()):
        check_whole(world, child, deleted)


def check_links(world: World) -> None:
    """Check that each of our links has its ref and its data object."""
    for key, found in world.bucket.objects.items():
        metadata = found.attributes.metadata
        if "/blobs/" in key and "target" in metadata:
            name = key.rpartition("/blobs/")[0]
            assert keys.ref(metadata["target"], metadata["ref"], RepositoryName(name)) in world.bucket.objects, "no ref"
            assert keys.data(metadata["target"]) in world.bucket.objects, "a link leads to nothing"


def check_acknowledged(world: World, kinds: Sequence[Kind]) -> None:
    """Check that each acknowledged manifest that nobody deleted is complete."""
    assert bytes_at(world, f"{R}/blobs/blobs/{digest_of(LARGE)}") == LARGE, "a blob of another repository is gone"
    deleted = frozenset[bytes]().union(*(kind.deletes for kind in kinds))
    deleted_tags = frozenset[str]().union(*(kind.deletes_tags for kind in kinds))
    acknowledged = [kind.acknowledges for kind, outcome in zip(kinds, world.outcomes, strict=True) if outcome == "done"]
    retired = frozenset[str]().union(*(kind.retires for kind in kinds))
    at_first = (TAGGED, tuple({"kept"} - retired))
    for found in [at_first if at_first[1] else None, *acknowledged]:
        if found is None:
            continue
        manifest, tags = found
        if manifest not in deleted:
            if not deleted_tags.intersection(tags):
                check_whole(world, manifest, deleted)
            # An index without its child is incomplete. Another push of it is refused then, and takes the tag back.
            may_go = deleted_tags | (set(tags) if deleted.intersection(CHILDREN.get(manifest, ())) else set())
            for tag in tags:
                assert tag in may_go or at(world, tag) == manifest, "a tag is gone"
        elif any(at(world, tag) == manifest for tag in tags):
            # An interrupted deletion, or a push beside one, may leave only the tag; the image is complete through it.
            ends = [
                end
                for kind, end in zip(kinds, world.outcomes, strict=True)
                if manifest in kind.deletes or (kind.acknowledges is not None and kind.acknowledges[0] == manifest)
            ]
            if set(ends) == {"done"}:
                check_whole(world, manifest, deleted)
            assert all(_has_blob(world, data) for data in BLOBS[manifest]), "a blob of a tag is gone"


def _check_refused(world: World, kinds: Sequence[Kind]) -> None:
    """Check that a refused push left no incomplete manifest: a client that sends HEAD would not push it again."""
    pushes = [
        (*kind.acknowledges, outcome)
        for kind, outcome in zip(kinds, world.outcomes, strict=True)
        if kind.acknowledges is not None
    ]
    excused = {manifest for manifest, _, outcome in pushes if outcome in ("crashed", "failed")}
    deleted = frozenset[bytes]().union(*(kind.deletes for kind in kinds))
    excused |= {manifest for manifest, children in CHILDREN.items() if deleted.intersection(children)}
    for manifest, tags, outcome in pushes:
        references = (digest_of(manifest), *tags)
        if outcome == "refused" and manifest not in excused and any(at(world, one) == manifest for one in references):
            assert all(_has_blob(world, data) for data in BLOBS[manifest]), "half an image is there"


def check_nothing_is_left(world: World) -> None:
    """Check that after quiet days, only objects in use are left."""
    needed = set()
    for manifest, contents in BLOBS.items():
        if any(world.bucket.objects[key].data == manifest for key in world.bucket.keys(f"{R}/manifests/")):
            needed |= {f"{R}/blobs/{digest_of(data)}" for data in contents}
    own = {key for key in world.bucket.keys(f"{R}/blobs/") if not key.startswith(f"{R}/blobs/blobs/")}
    assert own <= needed, "a blob is left"
    assert all(world.bucket.objects[key].data for key in world.bucket.keys(f"{R}/manifests/")), "a tombstone is left"
    kept = {key.split("/")[1] for key in world.bucket.keys("_refs/")}
    assert {key.removeprefix("_data/") for key in world.bucket.keys("_data/")} <= kept, "data is left"
    assert not [key for key in world.bucket.keys("_refs/") if key.endswith("!condemned")], "a marker is left"


def check(kinds: Sequence[Kind]) -> Callable[[World], Awaitable[None]]:
    """Return the check of the invariants, right after the actors and after quiet days."""

    async def look(world: World) -> None:
        check_links(world)
        check_acknowledged(world, kinds)
        _check_refused(world, kinds)
        world.bucket.page = MAX_LIST_KEYS
        platform = world.platform(seed=99)
        for _ in range(2):
            world.clock.now += 2 * DAY + 1
            await _collect(platform, Mode.UNTAGGED)
            await sweep(platform)
        check_links(world)
        check_acknowledged(world, lasting)
        check_nothing_is_left(world)

    # A manifest without a tag is garbage a day later.
    lasting = [
        kind if kind.acknowledges and kind.acknowledges[1] else replace(kind, acknowledges=None) for kind in kinds
    ]
    return look


def scene(*acts: Actor, troubles: Sequence[Trouble] = ()) -> Scene:
    """Return a scene with these concurrent actors."""
    kinds = [BY_ACT.get(act, Kind(act)) for act in acts]
    name = " + ".join(act.__name__ for act in acts)
    return Scene(f"{name} {list(troubles) or ''}", begin, acts, check(kinds), troubles)


@contextlib.contextmanager
def scaled_down() -> Iterator[None]:
    """Use small parts, and no limit on the writes to a key: the scheduler decides about the timing."""
    with small_parts() as patches:
        patches.enter_context(mock.patch.object(r2, "WRITE_INTERVAL", -1.0))
        yield


# ---------------------------------------------------------------------- all at once
PAIRS = list(itertools.combinations_with_replacement([kind.act for kind in KINDS], 2))
TRIPLES = list(itertools.combinations_with_replacement([kind.act for kind in KINDS], 3))
SEEDS = 30  # of each triple


@dataclass(frozen=True, slots=True)
class Job:
    """Scenes for one process, with every schedule of each, or so many seeds."""

    scenes: Callable[[], Sequence[Scene]]
    seeds: int = 0


async def run(job: Job) -> int:
    """Run all schedules of a job and return their number."""
    count = 0
    for one in job.scenes():
        count += await (one.random_schedules(range(job.seeds)) if job.seeds else one.every_schedule())
    return count


def _work(job: Job) -> int:
    """Run a job in a process of its own."""
    with scaled_down(), contextlib.redirect_stdout(io.StringIO()):
        return asyncio.run(run(job))


def run_all(jobs: Sequence[Job]) -> int:
    """Run all jobs on all cores and return the number of schedules. Raises Violation."""
    _jobs[:] = jobs  # functions cannot be sent to a process, but a forked process inherits them
    begin()
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("fork")) as pool:
        count = sum(pool.map(_work_at, range(len(jobs))))
    counted["schedules"] += count
    return count


_jobs: list[Job] = []


def _work_at(index: int) -> int:
    return _work(_jobs[index])
