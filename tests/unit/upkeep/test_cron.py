"""The scheduled clean-up, tick by tick: garbage, data objects, session logs, registers of empty repositories."""

import json

import pytest

from registry.content.blobs import LARGE_BLOB
from registry.ports.storage import NO_ATTRIBUTES, Attributes, StorageError
from registry.settings import read_settings
from registry.upkeep.cron import PASS_SECONDS, Upkeep
from tests.fakes.client import VARIABLES, FakeRegistry, digest_of, with_query
from tests.fakes.r2 import Usage
from tests.images import push_image
from tests.invariants import check_links
from tests.unit.upkeep.test_legacy_bucket import OBJECTS, legacy
from tests.unit.upkeep.test_verification import verify
from tests.unit.uploads.test_uploads import bytes_of

__all__ = ["legacy"]

NAME = "team/app"
DAY = 24 * 3600
LARGE = bytes_of(LARGE_BLOB + 3)


def with_settings(**variables: str) -> FakeRegistry:
    """Return a registry with these settings."""
    return FakeRegistry(settings=read_settings({**VARIABLES, **variables}.get))


async def one_tick(registry: FakeRegistry) -> Upkeep:
    """Run one tick, within the R2 calls of an invocation."""
    before, registry.bucket.usage = registry.bucket.usage, Usage()
    registry.clock.now += 600
    upkeep = await registry.tick()
    used = registry.bucket.usage
    # A few more, for the position of the pass and the release of the register.
    assert used.class_a + used.class_b + used.free <= registry.settings.r2_calls + 10
    assert registry.bucket.open_bodies == 0
    registry.bucket.usage = before
    return upkeep


async def one_pass(registry: FakeRegistry) -> Upkeep:
    """Run ticks until a pass is done."""
    registry.clock.now += PASS_SECONDS
    for _ in range(2_000):
        upkeep = await one_tick(registry)
        if upkeep.stage == "done":
            check_links(registry)
            return upkeep
    raise AssertionError("it never ends")


# ------------------------------------------------------------------ a pass
async def test_everything_that_is_over_is_freed() -> None:
    """Three days after its deletion, nothing of an image is left, including its data objects."""
    registry = with_settings(GC_MODE="untagged")
    manifest = await push_image(registry, NAME, "1", [LARGE, b"small"])
    await push_image(registry, "other", "1", [LARGE])
    await registry.call("DELETE", f"/v2/{NAME}/manifests/{digest_of(manifest)}")
    for _ in range(4):
        await one_pass(registry)
    assert registry.bucket.keys(f"{NAME}/") == []
    assert (await registry.call("GET", f"/v2/other/blobs/{digest_of(LARGE)}")).body == LARGE
    assert len(registry.bucket.keys("_data/")) == 1
    await registry.call("DELETE", "/v2/other/manifests/1")
    for _ in range(4):
        await one_pass(registry)
    assert registry.bucket.keys("_data/") == []
    assert registry.bucket.keys("_refs/") == []


async def test_many_repositories(registry: FakeRegistry) -> None:
    """Each repository is visited, large ones in several ticks, in any order."""
    registry = with_settings(GC_MODE="unreferenced")
    await registry.push_blob("first", b"x")
    for number in range(60):
        for blob in range(3 if number else 400):
            key = f"r{number:02}/{'x/' * (number % 4)}blobs/{digest_of(f'{number} {blob}'.encode())}"
            registry.bucket.seed(key, b"x", NO_ATTRIBUTES, None)
    done = await one_pass(registry)
    assert (done.repositories, done.blobs) == (61, 59 * 3 + 400 + 1)
    assert [key for key in registry.bucket.keys("r") if "/blobs/" in key] == []


async def test_nothing_is_collected_unasked(registry: FakeRegistry) -> None:
    """Without GC_MODE, blobs stay; data objects without a link are deleted."""
    await registry.push_blob(NAME, b"orphan")
    registry.bucket.seed("_data/" + "1" * 32, b"lost", NO_ATTRIBUTES, None)
    for _ in range(3):
        done = await one_pass(registry)
    assert (await registry.call("GET", f"/v2/{NAME}/blobs/{digest_of(b'orphan')}")).status == 200
    assert registry.bucket.keys("_data/") == []
    assert done.stage == "done"


async def test_a_pass_begins_once_a_day(registry: FakeRegistry) -> None:
    """Between two passes, a tick is one R2 call."""
    await registry.push_blob(NAME, b"x")
    await one_pass(registry)
    registry.bucket.reset()
    began = (await registry.tick()).began
    assert (registry.bucket.usage.class_a, registry.bucket.usage.class_b) == (0, 1)
    registry.clock.now = began + PASS_SECONDS
    assert (await one_tick(registry)).began > began


async def test_one_repository_that_fails_stops_no_other() -> None:
    """The failure is logged, and the other repositories are visited; also for a storage error."""
    registry = with_settings(GC_MODE="unreferenced")
    await registry.push_blob("a", b"orphan")
    registry.bucket.seed("a/manifests/odd", b"not JSON", NO_ATTRIBUTES, None)
    await registry.push_blob("b", b"orphan")
    await registry.push_blob("c", b"orphan")

    def fail(call: str, key: str) -> None:
        if key == "b/manifests/":
            raise StorageError("broken")

    registry.bucket.fail = fail
    await one_pass(registry)
    left = [name for name in "abc" if registry.bucket.keys(f"{name}/blobs/")]
    assert left == ["a", "b"]


async def test_a_bucket_of_serverless_registry(legacy: FakeRegistry) -> None:
    """Untouched until it was migrated; then served, collected and verified, and its leftovers are deleted."""
    legacy.settings = read_settings({**VARIABLES, "GC_MODE": "untagged"}.get)
    legacy.restart()
    before = legacy.bucket.keys()
    await one_tick(legacy)
    assert legacy.bucket.keys() == before
    for _ in range(2):  # the second pass deletes the leftovers that were too young in the first
        while not json.loads((await legacy.call("POST", "/v2/_migrate")).body)["done"]:
            pass
        legacy.clock.now += 8 * DAY
    for _ in range(2):
        await one_pass(legacy)
    gone = set(before) - set(legacy.bucket.keys())
    for marker in ("/insertion/", "/gc/", "/uploads/", "d13cf52a-5be6-4fd8-b485-4f3a2961c275"):
        assert [key for key in before if marker in key]
        assert {key for key in before if marker in key} <= gone
    assert any("/blobs/" in key for key in gone)  # the unreferenced one
    for found in OBJECTS:
        name, kind, reference = found["key"].rpartition("/manifests/")
        if kind and ":" not in reference:
            assert (await legacy.call("GET", f"/v2/{name}/manifests/{reference}")).status == 200
    for name in ("library/app", "team/multi", "mirror/app", "mirror2/app"):
        assert (await verify(legacy, name))["problems"] == []


async def test_emptied_repositories(registry: FakeRegistry) -> None:
    """Even without GC_MODE, tombstones and then the register are deleted; the catalogue drops the repository."""
    names = [f"ci/pr-{number}" for number in range(200)]
    for name in names:
        manifest = await push_image(registry, name, "1", [])
        assert (await registry.call("DELETE", f"/v2/{name}/manifests/{digest_of(manifest)}")).status == 202
        (blob,) = registry.bucket.keys(f"{name}/blobs/")
        assert (await registry.call("DELETE", f"/v2/{blob}")).status == 202
    kept = await push_image(registry, "z", "1", [b"layer"])
    await one_pass(registry)
    listed = json.loads((await registry.call("GET", "/v2/_catalog")).body)["repositories"]
    assert listed == ["z"]
    # A register that was written today stays: a push may have seen it.
    assert len(registry.bucket.keys("ci/")) == 200
    for _ in range(2):
        await one_pass(registry)
    assert registry.bucket.keys("ci/") == []
    assert (await registry.call("GET", "/v2/z/manifests/1")).body == kept


async def test_a_repository_that_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    """It gets its own tick; then the log has the needed R2_CALLS, and the other repositories are visited."""
    registry = with_settings(GC_MODE="unreferenced", R2_CALLS="100")
    await registry.push_blob("a", b"orphan")
    for number in range(900):
        registry.bucket.seed(f"b/blobs/{digest_of(str(number).encode())}", b"x", NO_ATTRIBUTES, None)
    await registry.push_blob("c", b"orphan")
    registry.bucket.page = registry.bucket.page_with_metadata = 6
    await one_pass(registry)
    assert [name for name in "abc" if registry.bucket.keys(f"{name}/blobs/")] == ["b"]
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (told,) = [line for line in lines if line["event"] == "does-not-fit"]
    assert told["repository"] == "b"
    assert "R2_CALLS is 100: set R2_CALLS to 200" in told["help"]
    registry.settings = read_settings({**VARIABLES, "GC_MODE": "unreferenced", "R2_CALLS": "200"}.get)
    registry.restart()
    assert (await one_pass(registry)).blobs == 900


async def test_a_repository_that_is_pushed_to_all_the_time() -> None:
    """Its collection gives up, and the other repositories are visited."""
    registry = with_settings(GC_MODE="unreferenced")
    await registry.push_blob("a", b"orphan")
    await registry.push_blob("b", b"orphan")
    platform = registry.registry.platform

    def push(call: str, key: str) -> None:
        register = registry.bucket.objects.get("a/_gc")
        if (call, key) == ("list", "a/manifests/") and register is not None:
            # As a push leaves it, seen from the next call on.
            metadata = {**register.attributes.metadata, "phase": "aborted"}
            registry.bucket.seed("a/_gc", platform.random_hex(8).encode(), Attributes(metadata=metadata), None)

    registry.bucket.fail = push
    await one_pass(registry)
    assert [name for name in "ab" if registry.bucket.keys(f"{name}/blobs/")] == ["a"]


async def test_a_damaged_position(registry: FakeRegistry) -> None:
    """The clean-up begins a new pass."""
    await registry.push_blob(NAME, b"x")
    for data in (b"[]", b"not JSON", b'{"run": "of an earlier version", "stage": "done"}'):
        registry.bucket.seed("_registry/cron", data, NO_ATTRIBUTES, None)
        assert (await one_pass(registry)).repositories == 1


# ------------------------------------------------------------------ data and logs
async def test_many_sessions_that_broke_off(registry: FakeRegistry) -> None:
    """One pass deletes more than a page of session logs."""
    await registry.push_blob(NAME, b"x")
    for number in range(300):
        for start in range(0, 50_000, 10_000):
            key = f"{NAME}/uploads/{number:08x}-0000-0000-0000-000000000000/{start:016}"
            registry.bucket.seed(key, b"", NO_ATTRIBUTES, None)
    registry.clock.now += 2 * DAY
    assert (await one_pass(registry)).swept == 1_500
    assert registry.bucket.keys(f"{NAME}/uploads/") == []


async def test_refs_without_a_link(registry: FakeRegistry) -> None:
    """Deleted are a ref whose link was never written, is gone, or names another ref."""
    left = [bytes_of(LARGE_BLOB + number) for number in range(4, 7)]

    def fail(call: str, key: str) -> None:
        if call == "put" and key == f"{NAME}/blobs/{digest_of(left[0])}":
            raise StorageError("no answer")

    registry.bucket.fail = fail
    started = await registry.call("POST", f"/v2/{NAME}/blobs/uploads/")
    answer = await registry.call("PUT", with_query(started.location, digest=digest_of(left[0])), left[0])
    assert answer.status == 503
    for data in (LARGE, *left[1:]):
        await registry.push_blob(NAME, data)
    del registry.bucket.objects[f"{NAME}/blobs/{digest_of(left[1])}"]
    link = registry.bucket.objects[f"{NAME}/blobs/{digest_of(left[2])}"]
    metadata = {**link.attributes.metadata, "ref": "f" * 32}
    registry.bucket.seed(f"{NAME}/blobs/{digest_of(left[2])}", link.data, Attributes(metadata=metadata), None)
    registry.bucket.seed(f"_refs/{metadata['target']}/{'f' * 32}/{NAME}", b"", NO_ATTRIBUTES, None)
    assert (len(registry.bucket.keys("_refs/")), len(registry.bucket.keys("_data/"))) == (5, 4)
    await one_pass(registry)
    assert len(registry.bucket.keys("_refs/")) == 5
    for _ in range(3):
        await one_pass(registry)
    assert len(registry.bucket.keys("_refs/")) == 2
    assert len(registry.bucket.keys("_data/")) == 2
    assert (await registry.call("GET", f"/v2/{NAME}/blobs/{digest_of(LARGE)}")).body == LARGE
    assert (await registry.call("GET", f"/v2/{NAME}/blobs/{digest_of(left[2])}")).body == left[2]


async def test_each_ref_of_many_is_looked_at_once_a_week(registry: FakeRegistry) -> None:
    """A day checks a seventh of the refs; after a week, no orphaned ref is left."""
    await registry.push_blob(NAME, b"x")
    for number in range(1_500):
        data_id, digest = f"{number * 7919 % 65536:04x}{number:028x}", digest_of(str(number).encode())
        metadata = {"target": data_id, "ref": "1" * 32, "size": "9000000", "digest": digest}
        registry.bucket.seed(f"_data/{data_id}", b"data", NO_ATTRIBUTES, None)
        ref = f"_refs/{data_id}/{'1' * 32}/{NAME}"
        registry.bucket.seed(ref, b"", Attributes(metadata={"digest": digest}), None)
        if number % 3:
            key = f"{NAME}/blobs/{digest}"
            registry.bucket.seed(key, data_id.encode(), Attributes(metadata=metadata), None)
    registry.clock.now += 2 * DAY
    for _ in range(7):
        registry.bucket.reset()
        await one_pass(registry)
    assert len([key for key in registry.bucket.keys("_refs/") if not key.endswith("!condemned")]) == 1_000
    assert registry.bucket.usage.class_b < 1_000 // 7 + 60
    for _ in range(2):
        await one_pass(registry)
    assert len(registry.bucket.keys("_data/")) == 1_000


async def test_data_of_a_session_that_may_go_on(registry: FakeRegistry) -> None:
    """Kept for 48 hours, like the session's log and multipart upload."""
    started = await registry.call("POST", f"/v2/{NAME}/blobs/uploads/")
    assert (await registry.call("PATCH", started.location, [LARGE])).status == 202
    registry.bucket.seed("_data/" + "1" * 32, b"lost", NO_ATTRIBUTES, None)
    assert len(registry.bucket.uploads) == 1
    registry.clock.now += DAY - PASS_SECONDS
    await one_pass(registry)
    assert registry.bucket.keys("_data/")
    assert registry.bucket.keys(f"{NAME}/uploads/")
    registry.clock.now += DAY
    await one_pass(registry)
    assert registry.bucket.keys("_data/") == []
    assert registry.bucket.keys(f"{NAME}/uploads/") == []
    assert not registry.bucket.uploads


async def test_very_much_data(registry: FakeRegistry) -> None:
    """Pages of data objects and refs end at different ids; only data objects without a ref are deleted."""
    await registry.push_blob(NAME, b"x")
    for number in range(2_500):
        data_id = f"{number * 7919:032x}"
        registry.bucket.seed(f"_data/{data_id}", b"data", NO_ATTRIBUTES, None)
        for ref in range(number % 3 if number % 50 else 0):
            registry.bucket.seed(f"_refs/{data_id}/{ref:032x}/{NAME}", b"", NO_ATTRIBUTES, None)
    kept = {key.split("/")[1] for key in registry.bucket.keys("_refs/")}
    registry.clock.now += 3 * DAY
    for _ in range(2):
        await one_pass(registry)
    assert {key.removeprefix("_data/") for key in registry.bucket.keys("_data/")} == kept
    assert not [key for key in registry.bucket.keys("_refs/") if key.endswith("!condemned")]


async def test_markers_that_a_crash_left(registry: FakeRegistry) -> None:
    """Beside a ref, or without data, a marker is deleted; beside orphaned data, the deletion begins again."""
    await registry.push_blob(NAME, LARGE)
    linked = registry.bucket.keys("_data/")[0].removeprefix("_data/")
    for data_id in (linked, "1" * 32, "2" * 32):
        registry.bucket.seed(f"_refs/{data_id}/!condemned", b"", NO_ATTRIBUTES, None)
    registry.bucket.seed("_data/" + "1" * 32, b"lost", NO_ATTRIBUTES, None)
    registry.clock.now += 3 * DAY
    for _ in range(2):
        await one_pass(registry)
    assert registry.bucket.keys("_data/") == [f"_data/{linked}"]
    assert len(registry.bucket.keys("_refs/")) == 1
