"""No interleaving of pushes, mounts, deletions, collections and the sweeper loses an acknowledged image.

Every pair of actors in every order, three by seeds, and both with crashes, lost replies and expired leases.
"""

import itertools
from dataclasses import replace
from unittest import mock

import pytest

from registry.ports.platform import Platform
from registry.settings import read_settings
from registry.spec import manifest_references
from registry.spec.errors import Problem, RegistryError
from registry.spec.names import RepositoryName
from registry.storage import bucket_format, keys
from registry.storage.calls import DEFAULT_CALLS, Calls
from registry.upkeep import cron, migration
from tests.fakes.client import VARIABLES
from tests.interleavings import TIME_PASSES, Actor, Scene, Trouble, World
from tests.unit.upkeep.scenes import (
    ALL_COLLECTORS,
    BY_ACT,
    COLLECTORS,
    DAY,
    KINDS,
    PAIRS,
    SEEDS,
    TRIPLES,
    Job,
    begin,
    check_links,
    check_nothing_is_left,
    collect_untagged,
    delete_new,
    delete_tagged,
    delete_untagged,
    mount_and_put,
    push,
    push_in_chunks,
    put_by_digest,
    put_foreign,
    put_index,
    put_index_of_index,
    put_new,
    put_two_tags,
    put_untagged_again,
    retire,
    run_all,
    scene,
    sweep,
    tag_untagged,
    templates,
    upload_and_put,
)


def test_every_order_of_two() -> None:
    """Every pair of actors, in every order."""
    run_all([Job(lambda pair=pair: [scene(*pair)]) for pair in PAIRS])  # type: ignore[misc]


def test_three_at_once() -> None:
    """Every triple of actors, by seeds."""
    jobs = [Job(lambda triple=triple: [scene(*triple)], SEEDS) for triple in TRIPLES]  # type: ignore[misc]
    assert run_all(jobs) == SEEDS * len(TRIPLES)


PUSHES = (put_two_tags, tag_untagged, put_index, mount_and_put, put_by_digest, put_foreign)


def test_manifests_that_are_read() -> None:
    """Pairs of actors where metadata lacks the references: manifests of serverless-registry, and large ones."""
    before, templates[:] = list(templates), []
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
        templates[:] = before


def test_a_collection_that_crashes_anywhere() -> None:
    """At each of its calls, beside a push: the push is complete, or told to try again."""

    def scenes(push_of: Actor, collector: Actor) -> list[Scene]:
        return [scene(collector, push_of, troubles=(Trouble("crash", at), Trouble())) for at in range(16)]

    jobs = [
        Job(lambda push_of=push_of, collector=collector: scenes(push_of, collector))  # type: ignore[misc]
        for push_of in PUSHES
        for collector in COLLECTORS
    ]
    run_all(jobs)


def test_actors_that_crash_anywhere() -> None:
    """Any actor, at any call, beside a collection or the sweeper, by seeds."""

    def scenes(act: Actor) -> list[Scene]:
        return [
            scene(act, other, troubles=(Trouble("crash", at), Trouble()))
            for other in (*COLLECTORS, sweep)
            for at in range(24)
        ]

    run_all([Job(lambda act=kind.act: scenes(act), 3) for kind in KINDS])  # type: ignore[misc]


def test_lost_replies() -> None:
    """Any call of any actor takes effect, but its reply is lost."""

    def scenes(act: Actor) -> list[Scene]:
        return [
            scene(act, other, troubles=(Trouble("lost", at), Trouble()))
            for other in (put_two_tags, *COLLECTORS, sweep)
            for at in range(24)
        ]

    run_all([Job(lambda act=kind.act: scenes(act), 3) for kind in KINDS])  # type: ignore[misc]


async def time_passes(platform: Platform) -> None:
    """Let more time pass than a lease lasts, at any moment."""
    await platform.sleep(TIME_PASSES)


def test_leases_that_end() -> None:
    """A run whose lease has expired, beside pushes and another run."""
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
    """Return a scene whose listings have so many keys a page."""
    made = scene(*acts)

    def begin_with() -> World:
        world = begin()
        world.bucket.page = size
        return world

    return replace(made, name=f"{made.name}, {size} a page", begin=begin_with)


def test_more_than_a_page() -> None:
    """Objects written during a listing are on a page that was already listed, or on a later one."""
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
    """Any call of any actor fails, and so does its retry."""

    def scenes(act: Actor) -> list[Scene]:
        return [
            scene(act, other, troubles=(Trouble("fail", at), Trouble()))
            for other in (put_by_digest, *COLLECTORS, sweep)
            for at in range(24)
        ]

    run_all([Job(lambda act=kind.act: scenes(act), 2) for kind in KINDS])  # type: ignore[misc]


def patient(act: Actor) -> Actor:
    """Return a client that tries again after a 503.

    If the retry is refused, the client counts as failed, because a push that gets a 503 may leave its manifest.
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
    """While a push takes itself back, a call fails so slowly that the push's lease on the register expires.

    The call is not retried. So the push of another client, which continued meanwhile, keeps what it wrote.
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
    """A sweep's deletion fails after its lease, and other actors continued: it is not sent again."""
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
    """Check that only objects in use are left, including refs and session logs."""
    check_nothing_is_left(world)
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
    """Return a scene with one actor in trouble, after which the clean-up runs for a week."""

    async def look(world: World) -> None:
        platform = world.platform(seed=99)
        await bucket_format.note_if_empty(platform)
        while not (await migration.step(platform, DEFAULT_CALLS)).done:
            pass
        for _ in range(8):
            world.clock.now += DAY + 1
            for _ in range(12):
                await cron.tick(platform, SETTINGS.upkeep, Calls(), keep_pushed=False)
        check_links(world)
        _check_only_what_is_needed(world)

    return Scene(f"{act.__name__} {trouble}, and a quiet week", begin, [act], look, [trouble])


WRITERS = (push, push_in_chunks, mount_and_put, put_two_tags, put_index_of_index, delete_tagged, collect_untagged)


@pytest.mark.parametrize("kind", ["", "lost", "fail", "crash"])
def test_a_quiet_week(kind: str) -> None:
    """After an interruption at any call, the clean-up leaves only objects in use."""
    jobs = [
        Job(lambda act=act: [quiet_week(act, Trouble(kind, at)) for at in range(40 if kind else 1)], 1)  # type: ignore[misc]
        for act in WRITERS
    ]
    run_all(jobs)
