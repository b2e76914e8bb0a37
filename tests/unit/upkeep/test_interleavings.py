"""No order in which pushes, mounts, deletions, collections and the sweeper meet loses an acknowledged image.

Every pair of actors in every order, three at once by seeds, and the same with crashes, lost replies, and ended leases.
The mutants at the end are the shipped code with one thing left out: the checker has to find each of them.
"""

import asyncio
import contextlib
import inspect
import io
import itertools
import json
import multiprocessing
import textwrap
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import pytest

from registry.content import blobs, gc_register, manifest_checks, manifest_deletion, manifest_push, manifests
from registry.ports.platform import Platform
from registry.ports.storage import MAX_LIST_KEYS, NO_ATTRIBUTES, Attributes
from registry.settings import read_settings
from registry.spec import manifest_references
from registry.spec.endpoints import Mode
from registry.spec.errors import Problem, RegistryError
from registry.spec.manifest_format import Manifest
from registry.spec.manifest_references import References, references_of
from registry.spec.names import RepositoryName, Tag, parse_digest
from registry.storage import bucket_format, keys
from registry.storage.calls import DEFAULT_CALLS, Calls
from registry.upkeep import collection, cron, garbage, migration, sweeper
from registry.upkeep.collection import Collector
from registry.upkeep.garbage import Garbage, Rules
from registry.upkeep.retention import parse_rules
from registry.uploads.log import State
from registry.uploads.upload import Upload
from tests.fakes import r2
from tests.fakes.client import VARIABLES, digest_of
from tests.fakes.streams import FakeSource
from tests.images import INDEX, MANIFEST, descriptor, image
from tests.interleavings import TIME_PASSES, Actor, Scene, Step, Trouble, Violation, World, new_world
from tests.invariants import PART, small_parts

R, S = RepositoryName("r"), RepositoryName("s")
SMALL, OLD, KEPT, BASE = b"small", b"of an old manifest", b"of a tagged manifest", b"may lie elsewhere"
LARGE, MOUNTED, CHUNKED = bytes(PART + 1), bytes(PART + 2), bytes(2 * PART + 3)
DAY = 86_400.0
SESSION = "00000000-0000-4000-8000-000000000000"
counted = {"schedules": 0}


def _image(config: bytes, *layers: bytes) -> bytes:
    return json.dumps(image(config, layers)).encode()


NEW = _image(SMALL, LARGE)  # its blobs are there, and nothing refers to them
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
# All below an index, not its own alone.
CHILDREN: Mapping[bytes, tuple[bytes, ...]] = {OVER_CHILD: (UNTAGGED,), OVER_INDEX: (OVER_CHILD, UNTAGGED)}


# ---------------------------------------------------------------------- actors
async def _put(platform: Platform, manifest: bytes, *tags: str) -> None:
    media_type = INDEX if manifest in CHILDREN else MANIFEST
    received = manifests.receive(manifest, media_type, parse_digest(digest_of(manifest)))
    await manifest_push.put(platform, R, received, [Tag(tag) for tag in tags], sparse=False, r2_calls=900)


async def _upload(platform: Platform, name: RepositoryName, data: bytes) -> None:
    await blobs.put_whole(platform, name, parse_digest(digest_of(data)), FakeSource([data], len(data)))


async def put_new(platform: Platform) -> None:
    """A manifest whose blobs are there."""
    await _put(platform, NEW, "new")


async def put_two_tags(platform: Platform) -> None:
    """The same with two tags."""
    await _put(platform, NEW, "new", "also")


async def put_tagged_again(platform: Platform) -> None:
    """What is there already, under the same tag."""
    await _put(platform, TAGGED, "kept")


async def tag_untagged(platform: Platform) -> None:
    """An old manifest gets a tag."""
    await _put(platform, UNTAGGED, "old")


async def put_index(platform: Platform) -> None:
    """An index over an old manifest."""
    await _put(platform, OVER_CHILD, "index")


async def put_index_of_index(platform: Platform) -> None:
    """An index over an index that has no tag, as clients push them: what is below comes first."""
    await _put(platform, OVER_CHILD)
    await _put(platform, OVER_INDEX, "outer")


async def put_by_digest(platform: Platform) -> None:
    """A manifest without a tag: a child, a signature, or one that gets its tag tomorrow."""
    await _put(platform, NEW)


async def put_untagged_again(platform: Platform) -> None:
    """The same of what was pushed long ago."""
    await _put(platform, UNTAGGED)


async def put_foreign(platform: Platform) -> None:
    """A manifest with a layer that need not be there, and is.

    It stays if the push saw it. What a collection took before, nobody can tell from what never was there.
    """
    digest = parse_digest(digest_of(OF_WINDOWS))
    push = manifest_push.Push(platform, R, manifests.receive(OF_WINDOWS, MANIFEST, digest), sparse=False, r2_calls=900)
    await push.begin()
    await push.settle([digest], [digest])
    await push.settle([Tag("windows")], [digest, Tag("windows")])
    if parse_digest(digest_of(BASE)) not in push.present:
        raise RegistryError(Problem.UNAVAILABLE, "collected before the push looked")


async def upload_and_put(platform: Platform) -> None:
    """The blobs and a manifest without a tag."""
    await _upload(platform, R, SMALL)
    await _upload(platform, R, LARGE)
    await _put(platform, NEW)


async def push(platform: Platform) -> None:
    """A blob and its manifest."""
    await _upload(platform, R, LARGE)
    await _put(platform, NEW, "new")


async def push_in_chunks(platform: Platform) -> None:
    """A blob in a session of two chunks that is closed, and its manifest."""
    async with Upload(platform, R, SESSION) as upload:
        state = State()
        for data in (CHUNKED[: PART + 1], CHUNKED[PART + 1 :]):
            state = await upload.append(state, FakeSource([data]), None)
            await upload.resume(state.entry)
        await upload.close(parse_digest(digest_of(CHUNKED)))
    await _put(platform, OF_CHUNKS, "chunks")


async def mount_and_put(platform: Platform) -> None:
    """A blob of another repository, mounted or uploaded, and a manifest that needs it."""
    if not await blobs.mount(platform, R, parse_digest(digest_of(MOUNTED)), S):
        await _upload(platform, R, MOUNTED)
    await _put(platform, OF_MOUNT, "mounted")


async def delete_untagged(platform: Platform) -> None:
    """DELETE of a manifest by its digest."""
    await manifest_deletion.delete_manifest(platform, R, parse_digest(digest_of(UNTAGGED)))


async def delete_tagged(platform: Platform) -> None:
    """DELETE of a manifest that has a tag."""
    await manifest_deletion.delete_manifest(platform, R, parse_digest(digest_of(TAGGED)))


async def delete_new(platform: Platform) -> None:
    """DELETE of a manifest that others push."""
    await manifest_deletion.delete_manifest(platform, R, parse_digest(digest_of(NEW)))


async def delete_tag(platform: Platform) -> None:
    """DELETE of a tag."""
    await manifest_deletion.delete_tag(platform, R, Tag("kept"))


async def delete_blob(platform: Platform) -> None:
    """DELETE of a large blob of the other repository, from which it is mounted."""
    stored = await blobs.find_own(platform, S, parse_digest(digest_of(MOUNTED)))
    if stored is not None:
        await blobs.delete(platform, S, stored)


async def _collect(platform: Platform, mode: Mode) -> Garbage:
    return await Collector(platform, collection.begin(platform, R, Rules(mode, grace=0)), Calls(200)).collect()


async def collect_unreferenced(platform: Platform) -> Garbage:
    """A collection, without a grace period."""
    return await _collect(platform, Mode.UNREFERENCED)


async def collect_untagged(platform: Platform) -> Garbage:
    """The same in the other mode."""
    return await _collect(platform, Mode.UNTAGGED)


async def collect_with_grace(platform: Platform) -> Garbage:
    """A collection with a grace period: what one without it takes, it leaves, and the other way round."""
    rules = Rules(Mode.UNTAGGED, grace=int(DAY), untagged_age=int(DAY))
    return await Collector(platform, collection.begin(platform, R, rules), Calls(200)).collect()


async def retire(platform: Platform) -> None:
    """Retention: the tag "kept", when it was not pushed since yesterday."""
    others = ["new", "also", "old", "index", "outer", "windows", "chunks", "mounted"]
    text = json.dumps([{"repositories": "**", "keep_days": 1, "keep_tags": others}])
    rules = Rules(Mode.DELETED, grace=0)
    run = collection.begin(platform, R, rules, retention=parse_rules(text)[0])
    await Collector(platform, run, Calls(200)).collect()


async def sweep(platform: Platform) -> None:
    """A step of the sweeper."""
    await sweeper.sweep_data(platform, Calls(), "", sweeper.Swept())


@dataclass(frozen=True, slots=True)
class Kind:
    """An actor: what it acknowledges when it is done, and what it deletes."""

    act: Actor
    acknowledges: tuple[bytes, tuple[str, ...]] | None = None
    deletes: frozenset[bytes] = frozenset()
    deletes_tags: frozenset[str] = frozenset()
    retires: frozenset[str] = frozenset()  # tags, unless they were pushed since


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
        await _upload(platform, R, data)
    await _upload(platform, S, MOUNTED)
    await _put(platform, UNTAGGED)
    await _put(platform, TAGGED, "kept")
    # Something whose tombstones lie about, and data that nothing links to.
    await _put(platform, NEW, "new")
    await manifest_deletion.delete_manifest(platform, R, parse_digest(digest_of(NEW)))
    world.bucket.seed(keys.data("0" * 32), b"lost", NO_ATTRIBUTES, None)
    # A repository that is named like a folder of the other one.
    await _upload(platform, RepositoryName(f"{R}/blobs"), LARGE)


def _template() -> World:
    world = new_world(0)
    asyncio.run(_fill(world))
    return world


_templates: list[World] = []


def begin() -> World:
    """Three days later."""
    if not _templates:
        with scaled_down():
            _templates.append(_template())
    world = new_world(3)
    world.bucket.objects = dict(_templates[0].bucket.objects)
    return world


# ---------------------------------------------------------------------- what must hold
def _bytes_at(world: World, key: str) -> bytes | None:
    found = world.bucket.objects.get(key)
    if found is None:
        return None
    target = found.attributes.metadata.get("target")
    if target is None:
        return found.data
    data = world.bucket.objects.get(keys.data(target))
    return None if data is None else data.data


def _has_blob(world: World, data: bytes) -> bool:
    return _bytes_at(world, f"{R}/blobs/{digest_of(data)}") == data


def _at(world: World, reference: str) -> bytes:
    return _bytes_at(world, f"{R}/manifests/{reference}") or b""


def _check_whole(world: World, manifest: bytes, deleted: frozenset[bytes]) -> None:
    if deleted.intersection(CHILDREN.get(manifest, ())):
        return  # somebody wanted it so
    assert _at(world, digest_of(manifest)) == manifest, "a manifest is gone"
    for data in BLOBS[manifest]:
        assert _has_blob(world, data), "a blob of a manifest is gone"
    for child in CHILDREN.get(manifest, ()):
        _check_whole(world, child, deleted)


def _check_links(world: World) -> None:
    for key, found in world.bucket.objects.items():
        metadata = found.attributes.metadata
        if "/blobs/" in key and "target" in metadata:
            name = key.rpartition("/blobs/")[0]
            assert keys.ref(metadata["target"], metadata["ref"], RepositoryName(name)) in world.bucket.objects, "no ref"
            assert keys.data(metadata["target"]) in world.bucket.objects, "a link leads to nothing"


def _check_acknowledged(world: World, kinds: Sequence[Kind]) -> None:
    assert _bytes_at(world, f"{R}/blobs/blobs/{digest_of(LARGE)}") == LARGE, "a blob of another repository is gone"
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
                _check_whole(world, manifest, deleted)
            # Whose child was deleted is broken; another push of the same bytes, which is refused for it, takes its tag.
            may_go = deleted_tags | (set(tags) if deleted.intersection(CHILDREN.get(manifest, ())) else set())
            for tag in tags:
                assert tag in may_go or _at(world, tag) == manifest, "a tag is gone"
        elif any(_at(world, tag) == manifest for tag in tags):
            # A deletion that broke off, or a push beside one, may leave the tag alone; the image is whole by it.
            ends = [
                end
                for kind, end in zip(kinds, world.outcomes, strict=True)
                if manifest in kind.deletes or (kind.acknowledges is not None and kind.acknowledges[0] == manifest)
            ]
            if set(ends) == {"done"}:
                _check_whole(world, manifest, deleted)
            assert all(_has_blob(world, data) for data in BLOBS[manifest]), "a blob of a tag is gone"


def _check_refused(world: World, kinds: Sequence[Kind]) -> None:
    """What a push wrote that was refused is not there, unless it is whole: who looks first would not push it again."""
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
        if outcome == "refused" and manifest not in excused and any(_at(world, one) == manifest for one in references):
            assert all(_has_blob(world, data) for data in BLOBS[manifest]), "half an image is there"


def _check_nothing_is_left(world: World) -> None:
    """After quiet days: what is there is needed."""
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
    """What must hold after these met, and after quiet days."""

    async def look(world: World) -> None:
        _check_links(world)
        _check_acknowledged(world, kinds)
        _check_refused(world, kinds)
        world.bucket.page = MAX_LIST_KEYS
        platform = world.platform(seed=99)
        for _ in range(2):
            world.clock.now += 2 * DAY + 1
            await _collect(platform, Mode.UNTAGGED)
            await sweep(platform)
        _check_links(world)
        _check_acknowledged(world, lasting)
        _check_nothing_is_left(world)

    # A manifest without a tag is garbage a day later.
    lasting = [
        kind if kind.acknowledges and kind.acknowledges[1] else replace(kind, acknowledges=None) for kind in kinds
    ]
    return look


def scene(*acts: Actor, troubles: Sequence[Trouble] = ()) -> Scene:
    """Actors that meet."""
    kinds = [BY_ACT.get(act, Kind(act)) for act in acts]
    name = " + ".join(act.__name__ for act in acts)
    return Scene(f"{name} {list(troubles) or ''}", begin, acts, check(kinds), troubles)


@contextlib.contextmanager
def scaled_down() -> Iterator[None]:
    """Large blobs are small, and a key may be written as often as one likes: the scheduler decides when."""
    with small_parts() as patches:
        patches.enter_context(mock.patch.object(r2, "WRITE_INTERVAL", -1.0))
        yield


# ---------------------------------------------------------------------- all at once
PAIRS = list(itertools.combinations_with_replacement([kind.act for kind in KINDS], 2))
TRIPLES = list(itertools.combinations_with_replacement([kind.act for kind in KINDS], 3))
SEEDS = 30  # of each triple


@dataclass(frozen=True, slots=True)
class Job:
    """Scenes for one process: every schedule of each, or so many seeds."""

    scenes: Callable[[], Sequence[Scene]]
    seeds: int = 0


async def _run(job: Job) -> int:
    count = 0
    for one in job.scenes():
        count += await (one.random_schedules(range(job.seeds)) if job.seeds else one.every_schedule())
    return count


def _work(job: Job) -> int:
    """In a process of its own."""
    with scaled_down(), contextlib.redirect_stdout(io.StringIO()):
        return asyncio.run(_run(job))


def run_all(jobs: Sequence[Job]) -> int:
    """All jobs on all cores; how many schedules. Raises Violation."""
    _jobs[:] = jobs  # functions cannot be sent to a process; it inherits them
    begin()
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("fork")) as pool:
        count = sum(pool.map(_work_at, range(len(jobs))))
    counted["schedules"] += count
    return count


_jobs: list[Job] = []


def _work_at(index: int) -> int:
    return _work(_jobs[index])


def test_every_order_of_two() -> None:
    """Every pair of actors, exhaustively."""
    run_all([Job(lambda pair=pair: [scene(*pair)]) for pair in PAIRS])  # type: ignore[misc]


def test_three_at_once() -> None:
    """Every triple, by seeds."""
    jobs = [Job(lambda triple=triple: [scene(*triple)], SEEDS) for triple in TRIPLES]  # type: ignore[misc]
    assert run_all(jobs) == SEEDS * len(TRIPLES)


PUSHES = (put_two_tags, tag_untagged, put_index, mount_and_put, put_by_digest, put_foreign)


def test_manifests_that_are_read() -> None:
    """The same where metadata does not say what a manifest refers to: SR's, and large ones."""
    before, _templates[:] = list(_templates), []
    try:
        with mock.patch.object(manifest_references, "MAX_LENGTH", 0):
            jobs = [
                Job(lambda acts=acts: [scene(*acts)])  # type: ignore[misc]
                for acts in itertools.product(COLLECTORS, (*PUSHES, delete_tagged, *COLLECTORS))
            ]
            jobs += [
                Job(lambda acts=acts: [scene(*acts)], 60)  # type: ignore[misc]
                for acts in itertools.product(COLLECTORS, PUSHES, (*PUSHES, delete_tagged, delete_new))
            ]
            run_all(jobs)
    finally:
        _templates[:] = before


def test_a_collection_that_crashes_anywhere() -> None:
    """At each of its calls, beside a push: it is acknowledged whole, or told to come again."""

    def scenes(push_of: Actor, collector: Actor) -> list[Scene]:
        return [scene(collector, push_of, troubles=(Trouble("crash", at), Trouble())) for at in range(16)]

    jobs = [
        Job(lambda push_of=push_of, collector=collector: scenes(push_of, collector))  # type: ignore[misc]
        for push_of in PUSHES
        for collector in COLLECTORS
    ]
    run_all(jobs)


def test_actors_that_crash_anywhere() -> None:
    """Any actor, at any call, beside a collection in the other mode or the sweeper, by seeds."""

    def scenes(act: Actor) -> list[Scene]:
        return [
            scene(act, other, troubles=(Trouble("crash", at), Trouble()))
            for other in (*COLLECTORS, sweep)
            for at in range(24)
        ]

    run_all([Job(lambda act=kind.act: scenes(act), 3) for kind in KINDS])  # type: ignore[misc]


def test_lost_replies() -> None:
    """Any call of any actor took effect, and nobody told it so."""

    def scenes(act: Actor) -> list[Scene]:
        return [
            scene(act, other, troubles=(Trouble("lost", at), Trouble()))
            for other in (put_two_tags, *COLLECTORS, sweep)
            for at in range(24)
        ]

    run_all([Job(lambda act=kind.act: scenes(act), 3) for kind in KINDS])  # type: ignore[misc]


async def time_passes(platform: Platform) -> None:
    """Longer than a lease, at any moment."""
    await platform.sleep(TIME_PASSES)


def test_leases_that_end() -> None:
    """A run that is over its time, beside pushes and another run."""
    jobs = [
        Job(lambda acts=acts: [scene(*acts, time_passes)], 400)  # type: ignore[misc]
        for acts in itertools.product(COLLECTORS, (*PUSHES, *COLLECTORS))
    ]
    jobs += [
        Job(lambda acts=acts: [scene(*acts, time_passes, time_passes)], 200)  # type: ignore[misc]
        for acts in itertools.product(COLLECTORS, COLLECTORS, PUSHES)
    ]
    run_all(jobs)


def of_pages(size: int, *acts: Actor) -> Scene:
    """Actors that meet while a listing has so many keys a page."""
    made = scene(*acts)

    def begin_with() -> World:
        world = begin()
        world.bucket.page = size
        return world

    return replace(made, name=f"{made.name}, {size} a page", begin=begin_with)


def test_more_than_a_page() -> None:
    """Of everything that is listed: what comes while a listing is under way is on a page that was, or was not, seen."""
    jobs = [
        Job(lambda size=size, acts=acts: [of_pages(size, *acts)], 60)  # type: ignore[misc]
        for size in (1, 3)
        for acts in itertools.product(ALL_COLLECTORS, (*PUSHES, delete_tagged, delete_new, retire))
    ]
    jobs += [
        Job(lambda acts=acts: [of_pages(2, *acts)], 30)  # type: ignore[misc]
        for acts in itertools.product(ALL_COLLECTORS, PUSHES, (put_by_digest, delete_tagged, delete_untagged, retire))
    ]
    run_all(jobs)


def test_calls_that_fail() -> None:
    """Any call of any actor fails, and does so again when it is tried again."""

    def scenes(act: Actor) -> list[Scene]:
        return [
            scene(act, other, troubles=(Trouble("fail", at), Trouble()))
            for other in (put_by_digest, *COLLECTORS, sweep)
            for at in range(24)
        ]

    run_all([Job(lambda act=kind.act: scenes(act), 2) for kind in KINDS])  # type: ignore[misc]


def patient(act: Actor) -> Actor:
    """A client that comes again when it is told to.

    If it is refused then, it counts as one that failed: a push that is answered 503 may leave its manifest.
    """

    async def again(platform: Platform) -> None:
        failure: RegistryError | None = None
        for _ in range(20):
            try:
                await act(platform)
            except RegistryError as error:
                if error.problem is not Problem.UNAVAILABLE:
                    raise failure or error from None
                failure = error
                await platform.sleep(10)
            else:
                return

    again.__name__ = f"patient {act.__name__}"
    BY_ACT[again] = replace(BY_ACT[act], act=again)
    return again


PATIENT = {act: patient(act) for act in (put_new, put_by_digest, put_two_tags, put_untagged_again)}


def test_pushes_that_fail_slowly() -> None:
    """A call takes so long to fail that the lease of its push is over, where it holds the register to take itself back.

    It is not sent again then: the push of another client, which went on meanwhile, keeps what it wrote.
    """
    jobs = [
        Job(
            lambda acts=acts: [  # type: ignore[misc]
                scene(*acts, troubles=(Trouble("slow", at), Trouble(), Trouble())) for at in range(30)
            ],
            10,
        )
        for acts in itertools.product((put_by_digest, put_new), COLLECTORS, (upload_and_put, PATIENT[put_by_digest]))
    ]
    run_all(jobs)


def test_deletions_that_fail_slowly() -> None:
    """A sweep's deletion fails after its lease, and others went on: it is not sent again."""
    jobs = [
        Job(
            lambda acts=acts: [  # type: ignore[misc]
                scene(*acts, troubles=(Trouble("slow", at), Trouble())) for at in range(4, 16)
            ],
            40,
        )
        for acts in itertools.product(COLLECTORS, PATIENT.values())
    ]
    run_all(jobs)


# ---------------------------------------------------------------------- a quiet week
SETTINGS = read_settings({**VARIABLES, "GC_MODE": "untagged", "GC_GRACE": "0"}.get)


def _check_only_what_is_needed(world: World) -> None:
    """Nothing is left that nobody needs, refs and logs of uploads included."""
    _check_nothing_is_left(world)
    links = set()
    for key, found in world.bucket.objects.items():
        name, is_blob, _ = key.rpartition("/blobs/")
        if is_blob and "target" in found.attributes.metadata:
            metadata = found.attributes.metadata
            links.add(keys.ref(metadata["target"], metadata["ref"], RepositoryName(name)))
    assert set(world.bucket.keys("_refs/")) == links, "a ref is left"
    assert not [key for key in world.bucket.objects if "/uploads/" in key], "the log of an upload is left"
    assert not world.bucket.keys("_registry/gc/"), "a collection is left"


def quiet_week(act: Actor, trouble: Trouble) -> Scene:
    """One actor, in trouble; then the clean-up runs for a week."""

    async def look(world: World) -> None:
        platform = world.platform(seed=99)
        await bucket_format.note_if_empty(platform)
        while not (await migration.step(platform, DEFAULT_CALLS)).done:
            pass
        for _ in range(8):
            world.clock.now += DAY + 1
            for _ in range(12):
                await cron.tick(platform, SETTINGS.upkeep, Calls(), keep_pushed=False)
        _check_links(world)
        _check_only_what_is_needed(world)

    return Scene(f"{act.__name__} {trouble}, and a quiet week", begin, [act], look, [trouble])


WRITERS = (push, push_in_chunks, mount_and_put, put_two_tags, put_index_of_index, delete_tagged, collect_untagged)


@pytest.mark.parametrize("kind", ["", "lost", "fail", "crash"])
def test_a_quiet_week(kind: str) -> None:
    """Whatever broke off at whatever call: the bucket holds nothing then that nobody needs."""
    jobs = [
        Job(lambda act=act: [quiet_week(act, Trouble(kind, at)) for at in range(40 if kind else 1)], 1)  # type: ignore[misc]
        for act in WRITERS
    ]
    run_all(jobs)


# ---------------------------------------------------------------------- a bucket of serverless-registry
def begin_legacy() -> World:
    """Its links: `s` has the bytes, and `r` names it."""
    world = new_world(0)
    digest = digest_of(MOUNTED)
    world.bucket.seed(f"{S}/blobs/{digest}", MOUNTED, NO_ATTRIBUTES, None)
    metadata = {"X-Serverless-Registry-Symlink": str(S)}
    world.bucket.seed(f"{R}/blobs/{digest}", f"{S}/blobs/{digest}".encode(), Attributes(metadata=metadata), None)
    world.clock.now += 3 * DAY
    return world


async def migrate(platform: Platform) -> None:
    """A step of the migration."""
    await migration.step(platform, DEFAULT_CALLS)


async def mount_elsewhere(platform: Platform) -> None:
    """A mount from where the link is."""
    assert await blobs.mount(platform, RepositoryName("t"), parse_digest(digest_of(MOUNTED)), R)


async def upload_again(platform: Platform) -> None:
    """A push of what the link stands for."""
    await _upload(platform, R, MOUNTED)


async def check_legacy(world: World) -> None:
    """Everybody who had the blob has it, migrated or not, and when all of it is."""
    names = ["r", "s", *(["t"] if mount_elsewhere in world.acts and "done" in world.outcomes else [])]
    for _ in range(2):
        _check_links(world)
        for name in names:
            found = await blobs.read(world.platform(), RepositoryName(name), parse_digest(digest_of(MOUNTED)))
            mounted = name != "t" or world.outcomes[world.acts.index(mount_elsewhere)] == "done"
            assert not mounted or (found is not None and await found.body.read(PART * 2) == MOUNTED), "a blob is gone"
            if found is not None:
                await found.body.cancel()
        while not (await migration.step(world.platform(seed=50), DEFAULT_CALLS)).done:
            pass


def test_the_migration_beside_everything() -> None:
    """In every order, and with another one beside it; with crashes and lost replies by seeds."""
    others = (mount_elsewhere, upload_again, migrate)

    def scenes(*acts: Actor, troubles: Sequence[Trouble] = ()) -> list[Scene]:
        def begin_with() -> World:
            world = begin_legacy()
            world.acts = list(acts)
            return world

        return [Scene(f"migrate + {acts[1].__name__}", begin_with, acts, check_legacy, troubles)]

    jobs = [Job(lambda other=other: scenes(migrate, other)) for other in others]  # type: ignore[misc]
    jobs += [
        Job(
            lambda other=other, kind=kind: [  # type: ignore[misc]
                one for at in range(16) for one in scenes(migrate, other, troubles=(Trouble(kind, at), Trouble()))
            ],
            5,
        )
        for other in others
        for kind in ("crash", "lost")
    ]
    run_all(jobs)


# ---------------------------------------------------------------------- the checker bites
def leaving_out(owner: Any, name: str, *changes: tuple[str, str]) -> Any:
    """The function `name` of a module or class, with its text changed, in its place."""
    function = getattr(owner, name)
    text = textwrap.dedent(inspect.getsource(function))
    for old, new in changes:
        assert text.count(old) >= 1, f"{name} has no {old!r} any more: the mutant needs another text"
        text = text.replace(old, new)
    namespace: dict[str, Any] = {}
    exec(compile(text, f"<mutant of {name}>", "exec"), function.__globals__, namespace)  # noqa: S102
    return mock.patch.object(owner, name, namespace[name])


async def mount_only(platform: Platform) -> None:
    """A mount."""
    await blobs.mount(platform, R, parse_digest(digest_of(MOUNTED)), S)


def before_quiet_days(*acts: Actor) -> Scene:
    """Where what is acknowledged is garbage a day later."""
    kinds = [BY_ACT[act] for act in acts]

    async def look(world: World) -> None:
        _check_acknowledged(world, kinds)

    return Scene("before quiet days", begin, acts, look)


async def mount_and_delete(platform: Platform) -> None:
    """A mount, and DELETE of the blob from where it was mounted to."""
    await blobs.mount(platform, R, parse_digest(digest_of(MOUNTED)), S)
    stored = await blobs.find_own(platform, R, parse_digest(digest_of(MOUNTED)))
    if stored is not None:
        await blobs.delete(platform, R, stored)


def session_of(number: int) -> Actor:
    """A client that sends a blob of its own in chunks, in a session that another one uses, too."""
    data = bytes([number]) * (2 * PART + 10)

    async def act(platform: Platform) -> None:
        async with Upload(platform, R, "a-session") as upload:
            state = await upload.append(State(), FakeSource([data]), None)
            assert state.entry is not None
            await upload.resume(state.entry)
            await upload.close(parse_digest(digest_of(data)))

    return act


async def check_session(world: World) -> None:
    """What lies at a digest has it."""
    for key in world.bucket.keys(f"{R}/blobs/"):
        if "/" not in key.removeprefix(f"{R}/blobs/"):
            data = _bytes_at(world, key)
            assert data is None or key.endswith(digest_of(data)), "other bytes than those of the digest"
    _check_links(world)


def one_session() -> Scene:
    """Two clients in one session, one after the other has closed it or not."""
    return Scene("one session", begin, [session_of(1), session_of(2)], check_session)


MUTANTS: dict[str, tuple[Callable[[], Any], Callable[[], Sequence[Scene]]]] = {
    "no swap to sweep": (
        lambda: leaving_out(collection.Collector, "_sweep", ("if not await self._write(Phase.SWEEP):", "if False:")),
        lambda: [scene(put_new, collect_unreferenced)],
    ),
    "no second look at the register": (
        lambda: leaving_out(gc_register, "settle", ("current = await read(platform, name)", "return seen, False")),
        lambda: [scene(put_new, collect_unreferenced)],
    ),
    "no second check": (
        lambda: mock.patch.object(manifest_push.Push, "_is_whole", _yes),
        lambda: [scene(put_new, collect_unreferenced)],
    ),
    "equal etags": (
        lambda: leaving_out(gc_register, "swap", ("nonce.encode()", "b'constant'")),
        lambda: [scene(put_new, collect_unreferenced)],
    ),
    "no age of untagged manifests": (
        lambda: leaving_out(garbage.Contents, "alive", ("max(rules.untagged_age, MIN_UNTAGGED_AGE)", "0")),
        lambda: [before_quiet_days(put_by_digest, collect_untagged)],
    ),
    "data ids taken from the session": (
        lambda: mock.patch.object(blobs, "new_id", return_value="5" * 32),
        lambda: [one_session()],
    ),
    "a ref after its link": (
        lambda: leaving_out(
            blobs,
            "_put_link",
            ("    await storage.put(ref,", "    (ref,"),
            ("only_if=only_if)", 'only_if=only_if)\n        await storage.put(ref, b"")'),
        ),
        lambda: [scene(mount_and_put, sweep, troubles=(Trouble("crash", at), Trouble())) for at in range(8)],
    ),
    "no marker before the second look": (
        lambda: leaving_out(blobs, "free_data", ('await storage.put(marker, b"")', "pass")),
        lambda: [scene(mount_and_put, delete_blob, sweep)],
    ),
    "a mount does not look for the marker": (
        lambda: mock.patch.object(blobs, "_still_there", _yes),
        lambda: [scene(mount_and_put, delete_blob, sweep)],
    ),
    "no age of data": (
        lambda: mock.patch.object(sweeper, "DATA_AGE", -DAY),
        lambda: [scene(push_other, sweep)],
    ),
    "no age of refs": (
        lambda: leaving_out(sweeper, "_orphans", (" or now - found.uploaded < DATA_AGE", "")),
        lambda: [scene(push_other, sweep)],
    ),
    "refs are taken for those of any link": (
        lambda: leaving_out(
            sweeper, "_is_linked", ("(found[0].id, found[1]) == (data_id, nonce)", "found[0].id != data_id")
        ),
        lambda: [scene(delete_blob, sweep)],
    ),
    "refs without a nonce of their own": (
        lambda: leaving_out(blobs, "_put_link", ("nonce = new_id(platform)", "nonce = '7' * 32")),
        lambda: [scene(mount_only, mount_and_delete)],
    ),
    "the digest is not looked at after the tag": (
        lambda: leaving_out(
            manifest_push.Push, "settle", (" or await self._find(everything[0]) is not None)", " or True)")
        ),
        lambda: [scene(put_tagged_again, delete_tagged)],
    ),
    "the register is not looked at after the tag": (
        lambda: leaving_out(
            manifest_push.Push,
            "settle",
            ("if is_changed and", "if len(everything) > 1:\n            return\n        if is_changed and"),
        ),
        lambda: [scene(put_new, collect_untagged)],
    ),
    "a push without a tag does not look again": (
        lambda: leaving_out(
            manifest_push.Push,
            "settle",
            (
                "self._register, is_changed =",
                "if len(everything) == 1 and to_write is not first: return\n        self._register, is_changed =",
            ),
        ),
        lambda: [scene(put_by_digest, upload_and_put, collect_unreferenced)],
    ),
    "a refused push leaves its digest": (
        lambda: leaving_out(
            manifest_push.Push, "_take_back", ("for reference in written", "for reference in written[1:]")
        ),
        lambda: [scene(put_by_digest, collect_unreferenced)],
    ),
    "an index below an index is not looked through": (
        lambda: mock.patch.object(manifest_checks, "MAX_DEPTH", 1),
        lambda: [over_half(put_outer)],
    ),
    "foreign layers are not referred to": (
        lambda: mock.patch.object(manifests, "references_of", _required_alone),
        lambda: [scene(put_foreign, collect_unreferenced)],
    ),
    "a ref does not say whose link it is": (
        lambda: leaving_out(blobs, "_put_link", ("Attributes(metadata={_DIGEST: str(digest)})", "Attributes()")),
        lambda: [quiet_week(push, Trouble("fail", at)) for at in range(16)],
    ),
    "the register is looked at beside everything else": (
        lambda: leaving_out(
            manifest_push.Push,
            "begin",
            ("    self._register = await gc_register.read(self._platform, self._name)\n", "    pass\n"),
            (
                "    self._was_there =",
                "    self._register = await gc_register.read(self._platform, self._name)\n    self._was_there =",
            ),
        ),
        lambda: [scene(put_new, collect_unreferenced)],
    ),
    "the last segment is taken for the digest": (
        lambda: leaving_out(
            collection.Collector, "_blobs", ("digest = found.key[prefix:]", "digest = found.key.rpartition('/')[2]")
        ),
        lambda: [scene(put_new, collect_unreferenced)],
    ),
    "links before manifests": (
        lambda: leaving_out(collection, "_deletes", ("for step in steps for", "for step in reversed(steps) for")),
        lambda: [scene(put_new, collect_untagged, troubles=(Trouble(), Trouble("crash", at))) for at in range(8, 14)],
    ),
}


# Where it takes three that meet, and luck: so many seeds instead of every order.
SEEDS_OF = {"a push without a tag does not look again": 3_000}


async def _yes(*_: object) -> bool:
    return True


def _required_alone(manifest: Manifest) -> References:
    references = references_of(manifest)
    return replace(references, blobs=references.blobs - references.elsewhere, elsewhere=frozenset())


async def put_outer(platform: Platform) -> None:
    """An index over an index that is there."""
    await _put(platform, OVER_INDEX, "outer")


def over_half(act: Actor) -> Scene:
    """Where the push of an image broke off while garbage was collected: an index is over it, and a blob is gone."""

    def begin_with() -> World:
        world = begin()
        world.bucket.seed(f"{R}/manifests/{digest_of(OVER_CHILD)}", OVER_CHILD, Attributes(INDEX), None)
        del world.bucket.objects[f"{R}/blobs/{digest_of(OLD)}"]
        return world

    async def look(world: World) -> None:
        assert _at(world, "outer") != OVER_INDEX, "an index was taken that is not whole"

    return Scene("over half an image", begin_with, [act], look)


async def push_other(platform: Platform) -> None:
    """A large blob that is nowhere else."""
    await _upload(platform, R, bytes(PART + 9))


def _both(*patches: Any) -> ExitStack:
    stack = ExitStack()
    for patch in patches:
        stack.enter_context(patch)
    return stack


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(name: str) -> None:
    """The checker sees what is lost without it."""
    mutate, scenes = MUTANTS[name]
    begin()
    with scaled_down(), mutate(), pytest.raises(Violation), contextlib.redirect_stdout(io.StringIO()):
        asyncio.run(_run(Job(scenes, SEEDS_OF.get(name, 0))))


@pytest.mark.parametrize("name", MUTANTS)
def test_the_same_scene_is_right_without_it(name: str) -> None:
    """So that it is the mutant that was found."""
    begin()
    with scaled_down(), contextlib.redirect_stdout(io.StringIO()):
        count = 0
        for one in MUTANTS[name][1]():
            seeds = range(min(SEEDS_OF.get(name, 0), 500))
            count += asyncio.run(one.random_schedules(seeds) if seeds else one.every_schedule(limit=2_000))
    assert count


def _in_the_middle() -> Callable[[dict[int, Step]], int | None]:
    """Before actor 0 puts its manifest, a collection (2) takes its blobs; before the tombstone, 1 pushes all of it."""
    place = Step("put", (keys.manifest(R, parse_digest(digest_of(NEW))),))
    puts = 0

    def choose(enabled: dict[int, Step]) -> int:
        nonlocal puts
        order = [0, 2, 1]
        if enabled.get(0) == place:
            order = [1, 0, 2] if puts else [2, 0, 1]
        chosen = next(actor for actor in order if actor in enabled)
        puts += enabled[chosen] == place
        return chosen

    return choose


@pytest.mark.parametrize("is_mutant", [False, True])
def test_a_push_is_taken_back_under_the_register(is_mutant: bool) -> None:
    """Another push of the same waits meanwhile: else it would rely on what is taken back."""
    begin()
    free = leaving_out(
        manifest_push.Push,
        "_is_whole",
        (
            "await gc_register.swap(platform, name, self._register, Phase.SWEEP, platform.random_hex(_RUN_BYTES))",
            "type(self._register)(Phase.SWEEP, '', platform.now() + 120, self._register.etag)",
        ),
    )
    expected = pytest.raises(AssertionError, match="is gone") if is_mutant else contextlib.nullcontext()
    made = scene(put_by_digest, upload_and_put, collect_unreferenced)
    with scaled_down(), free if is_mutant else contextlib.nullcontext(), expected:
        assert asyncio.run(made.once(_in_the_middle()))
