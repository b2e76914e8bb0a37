"""The checker finds each mutant, which is the shipped code with one thing left out."""

import asyncio
import contextlib
import inspect
import io
import textwrap
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest

from registry.content import blobs, gc_register, manifest_checks, manifest_push, manifests
from registry.ports.platform import Platform
from registry.ports.storage import Attributes
from registry.spec.manifest_format import Manifest
from registry.spec.manifest_references import References, references_of
from registry.spec.names import parse_digest
from registry.storage import keys
from registry.upkeep import collection, garbage, sweeper
from registry.uploads.log import State
from registry.uploads.upload import Upload
from tests.fakes.client import digest_of
from tests.fakes.streams import FakeSource
from tests.images import INDEX
from tests.interleavings import Actor, Scene, Step, Trouble, Violation, World
from tests.invariants import PART
from tests.unit.upkeep.scenes import (
    BY_ACT,
    DAY,
    MOUNTED,
    NEW,
    OLD,
    OVER_CHILD,
    OVER_INDEX,
    Job,
    R,
    S,
    at,
    begin,
    bytes_at,
    check_acknowledged,
    check_links,
    collect_unreferenced,
    collect_untagged,
    delete_blob,
    delete_tagged,
    mount_and_put,
    push,
    put,
    put_by_digest,
    put_foreign,
    put_new,
    put_tagged_again,
    run,
    scaled_down,
    scene,
    sweep,
    upload,
    upload_and_put,
)
from tests.unit.upkeep.test_interleavings import quiet_week


# ---------------------------------------------------------------------- mutants
def leaving_out(owner: Any, name: str, *changes: tuple[str, str]) -> Any:
    """Replace the function `name` of a module or class with a version whose source is changed."""
    function = getattr(owner, name)
    text = textwrap.dedent(inspect.getsource(function))
    for old, new in changes:
        assert text.count(old) >= 1, f"{name} has no {old!r} any more: the mutant needs another text"
        text = text.replace(old, new)
    namespace: dict[str, Any] = {}
    exec(compile(text, f"<mutant of {name}>", "exec"), function.__globals__, namespace)  # noqa: S102
    return mock.patch.object(owner, name, namespace[name])


async def mount_only(platform: Platform) -> None:
    """Mount a blob."""
    await blobs.mount(platform, R, parse_digest(digest_of(MOUNTED)), S)


def before_quiet_days(*acts: Actor) -> Scene:
    """Return a scene that is checked before what it acknowledged may be garbage, a day later."""
    kinds = [BY_ACT[act] for act in acts]

    async def look(world: World) -> None:
        check_acknowledged(world, kinds)

    return Scene("before quiet days", begin, acts, look)


async def mount_and_delete(platform: Platform) -> None:
    """Mount a blob, and delete it in the repository of the mount."""
    await blobs.mount(platform, R, parse_digest(digest_of(MOUNTED)), S)
    stored = await blobs.find_own(platform, R, parse_digest(digest_of(MOUNTED)))
    if stored is not None:
        await blobs.delete(platform, R, stored)


def session_of(number: int) -> Actor:
    """Return a client that sends its own blob in chunks, in a session that another client uses too."""
    data = bytes([number]) * (2 * PART + 10)

    async def act(platform: Platform) -> None:
        async with Upload(platform, R, "a-session") as upload:
            state = await upload.append(State(), FakeSource([data]), None)
            assert state.entry is not None
            await upload.resume(state.entry)
            await upload.close(parse_digest(digest_of(data)))

    return act


async def check_session(world: World) -> None:
    """Check that each blob's key has the bytes of its digest."""
    for key in world.bucket.keys(f"{R}/blobs/"):
        if "/" not in key.removeprefix(f"{R}/blobs/"):
            data = bytes_at(world, key)
            assert data is None or key.endswith(digest_of(data)), "other bytes than those of the digest"
    check_links(world)


def one_session() -> Scene:
    """Return a scene of two clients in one session."""
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


# Mutants that need three concurrent actors: the number of seeds to try instead of every order.
SEEDS_OF = {"a push without a tag does not look again": 3_000}


async def _yes(*_: object) -> bool:
    return True


def _required_alone(manifest: Manifest) -> References:
    references = references_of(manifest)
    return replace(references, blobs=references.blobs - references.elsewhere, elsewhere=frozenset())


async def put_outer(platform: Platform) -> None:
    """Push an index of an existing index."""
    await put(platform, OVER_INDEX, "outer")


def over_half(act: Actor) -> Scene:
    """Return a scene in which an index exists over an incomplete image, left by a push beside a collection."""

    def begin_with() -> World:
        world = begin()
        world.bucket.seed(f"{R}/manifests/{digest_of(OVER_CHILD)}", OVER_CHILD, Attributes(INDEX), None)
        del world.bucket.objects[f"{R}/blobs/{digest_of(OLD)}"]
        return world

    async def look(world: World) -> None:
        assert at(world, "outer") != OVER_INDEX, "an index was taken that is not whole"

    return Scene("over half an image", begin_with, [act], look)


async def push_other(platform: Platform) -> None:
    """Push a large blob that no other repository has."""
    await upload(platform, R, bytes(PART + 9))


def _both(*patches: Any) -> ExitStack:
    stack = ExitStack()
    for patch in patches:
        stack.enter_context(patch)
    return stack


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(name: str) -> None:
    """The checker finds a violation in the mutant."""
    mutate, scenes = MUTANTS[name]
    begin()
    with scaled_down(), mutate(), pytest.raises(Violation), contextlib.redirect_stdout(io.StringIO()):
        asyncio.run(run(Job(scenes, SEEDS_OF.get(name, 0))))


@pytest.mark.parametrize("name", MUTANTS)
def test_the_same_scene_is_right_without_it(name: str) -> None:
    """The shipped code passes the same scene, so the violation is the mutant's."""
    begin()
    with scaled_down(), contextlib.redirect_stdout(io.StringIO()):
        count = 0
        for one in MUTANTS[name][1]():
            seeds = range(min(SEEDS_OF.get(name, 0), 500))
            count += asyncio.run(one.random_schedules(seeds) if seeds else one.every_schedule(limit=2_000))
    assert count


def _in_the_middle() -> Callable[[dict[int, Step]], int | None]:
    """Collect the blobs (2) before actor 0 puts its manifest; push everything again (1) before its tombstone."""
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
    """Another push of the same manifest waits; otherwise it would rely on what is taken back."""
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
