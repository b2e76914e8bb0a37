"""Removal of a register: its conditions, and every interleaving with pushes and collections."""

import asyncio
import contextlib
import io
import itertools

import pytest

from registry.content import gc_register
from registry.content.gc_register import FORGET_SECONDS, LEASE_SECONDS, MARGIN_SECONDS, Phase
from registry.ports.platform import Platform
from registry.ports.storage import Attributes
from registry.storage import keys
from tests.fakes.client import FakeRegistry
from tests.interleavings import Actor, Scene, World
from tests.unit.upkeep import scenes
from tests.unit.upkeep.scenes import BY_ACT, DAY, R


async def remove(platform: Platform) -> None:
    """Remove the register of a repository that has nothing else, as the clean-up does."""
    await gc_register.remove(platform, R, keep_pushed=False)


def begin() -> World:
    """Return a repository with an old register."""
    world = scenes.begin()
    metadata = {"phase": "idle", "run": "", "lease": str(world.clock.now - 2 * DAY), "nonce": "x"}
    world.bucket.seed(keys.gc_register(R), b"x", Attributes(metadata=metadata), None)
    return world


PUSHES = [scenes.put_two_tags, scenes.tag_untagged, scenes.put_index, scenes.mount_and_put]
OTHERS = [*PUSHES, *scenes.COLLECTORS, remove]


def scene(*acts: Actor) -> Scene:
    """Return a scene with these concurrent actors."""
    kinds = [BY_ACT.get(act, scenes.Kind(act)) for act in acts]
    return Scene(f"{acts}", begin, acts, scenes.check(kinds))


def test_a_register_that_is_taken_away_in_every_order() -> None:
    """With each actor in every order; with a push and a collection by seeds."""
    count = 0
    with scenes.scaled_down(), contextlib.redirect_stdout(io.StringIO()):
        scenes.begin()
        for other in OTHERS:
            count += asyncio.run(scene(remove, other).every_schedule())
        for push, other in itertools.product(PUSHES, [*scenes.COLLECTORS, remove]):
            count += asyncio.run(scene(remove, push, other).random_schedules(range(100)))
    scenes.counted["schedules"] += count
    assert count > 1_000


@pytest.mark.parametrize("phase", Phase)
async def test_a_register_stays_for_a_day(registry: FakeRegistry, phase: Phase) -> None:
    """After a day, it is removed in any phase that a run left behind."""
    platform = registry.registry.platform
    await gc_register.swap(platform, R, gc_register.Register(), phase, "run")
    for seconds in (LEASE_SECONDS + MARGIN_SECONDS, FORGET_SECONDS - MARGIN_SECONDS - 1):
        registry.clock.now += seconds
        await gc_register.remove(platform, R, keep_pushed=False)
        assert (await gc_register.read(platform, R)).run == "run"
    registry.clock.now += 1
    await gc_register.remove(platform, R, keep_pushed=False)
    assert registry.bucket.keys() == []


async def test_a_repository_that_was_pushed_to_is_not_forgotten(registry: FakeRegistry) -> None:
    """With upstreams configured, one of them would otherwise answer for the repository."""
    platform = registry.registry.platform
    assert await gc_register.note_push(platform, R)
    registry.clock.now += LEASE_SECONDS + FORGET_SECONDS + 1
    await gc_register.remove(platform, R, keep_pushed=True)
    assert (await gc_register.read(platform, R)).is_pushed
    await gc_register.remove(platform, R, keep_pushed=False)
    assert registry.bucket.keys() == []
