"""The migration, concurrently with everything that clients do to a bucket of serverless-registry."""

from collections.abc import Sequence

from registry.content import blobs
from registry.ports.platform import Platform
from registry.ports.storage import NO_ATTRIBUTES, Attributes
from registry.spec.names import RepositoryName, parse_digest
from registry.storage.calls import DEFAULT_CALLS
from registry.upkeep import migration
from tests.fakes.client import digest_of
from tests.interleavings import Actor, Scene, Trouble, World, new_world
from tests.invariants import PART
from tests.unit.upkeep.scenes import DAY, MOUNTED, Job, R, S, check_links, run_all, upload


# ---------------------------------------------------------------------- a bucket of serverless-registry
def begin_legacy() -> World:
    """Return a bucket in which `s` has the bytes, and a link in `r` names `s`."""
    world = new_world(0)
    digest = digest_of(MOUNTED)
    world.bucket.seed(f"{S}/blobs/{digest}", MOUNTED, NO_ATTRIBUTES, None)
    metadata = {"X-Serverless-Registry-Symlink": str(S)}
    world.bucket.seed(f"{R}/blobs/{digest}", f"{S}/blobs/{digest}".encode(), Attributes(metadata=metadata), None)
    world.clock.now += 3 * DAY
    return world


async def migrate(platform: Platform) -> None:
    """Run a step of the migration."""
    await migration.step(platform, DEFAULT_CALLS)


async def mount_elsewhere(platform: Platform) -> None:
    """Mount a blob from a repository that has the link."""
    assert await blobs.mount(platform, RepositoryName("t"), parse_digest(digest_of(MOUNTED)), R)


async def upload_again(platform: Platform) -> None:
    """Push the blob for which the link stands."""
    await upload(platform, R, MOUNTED)


async def check_legacy(world: World) -> None:
    """Check that every repository that had the blob still has it, before and after the migration is done."""
    names = ["r", "s", *(["t"] if mount_elsewhere in world.acts and "done" in world.outcomes else [])]
    for _ in range(2):
        check_links(world)
        for name in names:
            found = await blobs.read(world.platform(), RepositoryName(name), parse_digest(digest_of(MOUNTED)))
            mounted = name != "t" or world.outcomes[world.acts.index(mount_elsewhere)] == "done"
            assert not mounted or (found is not None and await found.body.read(PART * 2) == MOUNTED), "a blob is gone"
            if found is not None:
                await found.body.cancel()
        while not (await migration.step(world.platform(seed=50), DEFAULT_CALLS)).done:
            pass


def test_the_migration_beside_everything() -> None:
    """In every order, and beside another migration; with crashes and lost replies by seeds."""
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
