"""The clean-up that runs by itself, tick by tick: garbage, retention, data, leftovers; and verification."""

import json
from typing import Any

import pytest

from registry.blobs import LARGE_BLOB
from registry.retention import parse_rules
from registry.settings import read_settings
from registry.storage import NO_ATTRIBUTES, Attributes, StorageError
from registry.upkeep import PASS_SECONDS, Upkeep, tick
from tests.fakes.client import VARIABLES, FakeRegistry, digest_of
from tests.fakes.r2 import Usage
from tests.images import image, push_image, put_manifest
from tests.invariants import check_links
from tests.test_legacy_bucket import OBJECTS, legacy
from tests.test_uploads import bytes_of

__all__ = ["legacy"]

NAME = "team/app"
DAY = 24 * 3600
LARGE = bytes_of(LARGE_BLOB + 3)
MAX_CALLS = 50  # of one request on the Free plan


def with_settings(**variables: str) -> FakeRegistry:
    """A registry with these."""
    return FakeRegistry(settings=read_settings({**VARIABLES, **variables}.get))


async def one_tick(registry: FakeRegistry) -> Upkeep:
    """A step; within the calls of a request."""
    before, registry.bucket.usage = registry.bucket.usage, Usage()
    registry.clock.now += 600
    upkeep = await tick(registry.registry.platform, registry.registry.settings)
    used = registry.bucket.usage
    assert used.class_a + used.class_b + used.free <= MAX_CALLS
    assert registry.bucket.open_bodies == 0
    registry.bucket.usage = before
    return upkeep


async def one_pass(registry: FakeRegistry) -> Upkeep:
    """Ticks until a pass is done."""
    registry.clock.now += PASS_SECONDS
    for _ in range(2_000):
        upkeep = await one_tick(registry)
        if upkeep.stage == "done":
            check_links(registry)
            return upkeep
    raise AssertionError("it never ends")


# ------------------------------------------------------------------ a pass
async def test_everything_that_is_over_is_freed() -> None:
    """An image is deleted; three days later nothing of it is left, not its data either."""
    registry = with_settings(GC_MODE="untagged")
    manifest = await push_image(registry, NAME, "1", [LARGE, b"small"])
    await push_image(registry, "other", "1", [LARGE])
    await registry.call("DELETE", f"/v2/{NAME}/manifests/{digest_of(manifest)}")
    for _ in range(4):
        await one_pass(registry)
    assert registry.bucket.keys(f"{NAME}/") == [f"{NAME}/_gc"]
    assert (await registry.call("GET", f"/v2/other/blobs/{digest_of(LARGE)}")).body == LARGE
    assert len(registry.bucket.keys("_data/")) == 1
    await registry.call("DELETE", "/v2/other/manifests/1")
    for _ in range(4):
        await one_pass(registry)
    assert registry.bucket.keys("_data/") == []
    assert registry.bucket.keys("_refs/") == []


async def test_many_repositories(registry: FakeRegistry) -> None:
    """Each has its turn, large ones several; whatever order they come in."""
    registry = with_settings(GC_MODE="unreferenced")
    await registry.push_blob("first", b"x")
    for number in range(60):
        for blob in range(3 if number else 400):
            key = f"r{number:02}/{'x/' * (number % 4)}blobs/{digest_of(f'{number} {blob}'.encode())}"
            registry.bucket.seed(key, b"x", NO_ATTRIBUTES, None)
    done = await one_pass(registry)
    assert (done.repositories, done.blobs) == (61, 59 * 3 + 400 + 1)
    assert [key for key in registry.bucket.keys("r") if "/blobs/" in key] == []
    assert registry.bucket.keys("_registry/gc/") == []


async def test_nothing_is_collected_unasked(registry: FakeRegistry) -> None:
    """Without GC_MODE blobs stay; data that nobody can reach goes."""
    await registry.push_blob(NAME, b"orphan")
    registry.bucket.seed("_data/" + "1" * 32, b"lost", NO_ATTRIBUTES, None)
    for _ in range(3):
        done = await one_pass(registry)
    assert (await registry.call("GET", f"/v2/{NAME}/blobs/{digest_of(b'orphan')}")).status == 200
    assert registry.bucket.keys("_data/") == []
    assert done.stage == "done"


async def test_a_pass_begins_once_a_day(registry: FakeRegistry) -> None:
    """In between a tick is one call."""
    await registry.push_blob(NAME, b"x")
    await one_pass(registry)
    registry.bucket.reset()
    began = (await tick(registry.registry.platform, registry.registry.settings)).began
    assert (registry.bucket.usage.class_a, registry.bucket.usage.class_b) == (0, 1)
    registry.clock.now = began + PASS_SECONDS
    assert (await one_tick(registry)).began > began


async def test_one_repository_that_fails_stops_no_other() -> None:
    """It is logged and left; so is what the storage fails to do."""
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
    """Left alone until it was migrated; then served, collected and verified, and its leftovers go."""
    legacy.settings = read_settings({**VARIABLES, "GC_MODE": "untagged"}.get)
    legacy.restart()
    before = legacy.bucket.keys()
    await one_tick(legacy)
    assert legacy.bucket.keys() == before
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


# ------------------------------------------------------------------ data and logs
async def test_data_of_a_session_that_may_go_on(registry: FakeRegistry) -> None:
    """48 hours; a log of a session and its multipart upload go then, too."""
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


async def test_repositories_that_are_named_like_what_serverless_registry_left(registry: FakeRegistry) -> None:
    """Their registers and blobs are none of its marks."""
    await registry.push_blob("a", b"x")
    left = [
        "a/gc/marker",
        "a/gc/last_update",
        "a/insertion/last_update",
        f"a/insertion/{'0' * 8}-{'-'.join(['0' * 4] * 3)}-{'0' * 12}",
    ]
    kept = ["a/gc/_gc", "a/insertion/_gc"]
    for key in (*left, *kept):
        registry.bucket.seed(key, b"", NO_ATTRIBUTES, None)
    registry.clock.now += 8 * DAY
    await one_pass(registry)
    assert [key in registry.bucket.objects for key in left] == [False] * 4
    assert [key in registry.bucket.objects for key in kept] == [True] * 2


async def test_very_much_data(registry: FakeRegistry) -> None:
    """Pages of data and of refs end in different places; only what has no ref goes."""
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
    """One beside a ref goes; one beside data begins anew; one of nothing goes."""
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


# ------------------------------------------------------------------ retention
RULES = [
    {
        "repositories": "team/**",
        "keep_newest": 2,
        "keep_days": 10,
        "keep_tags": ["v*", "latest"],
        "delete_untagged_after_days": 7,
    },
    {"repositories": "team/base", "keep_days": 1},
]


async def old_and_new_tags(registry: FakeRegistry, name: str) -> None:
    """A tag every five days, the first ones older than all rules."""
    for tag in ("v1", "latest", "a", "b", "c", "d"):
        await push_image(registry, name, tag, [tag.encode()])
        registry.clock.now += 5 * DAY


async def tags(registry: FakeRegistry, name: str) -> list[str]:
    """The tags that are listed."""
    return list(json.loads((await registry.call("GET", f"/v2/{name}/tags/list")).body)["tags"])


async def test_retention() -> None:
    """First shown, then applied: the newest, the young and the named ones stay; later manifests and blobs go."""
    registry = with_settings(RETENTION_JSON=json.dumps(RULES))
    for name in ("team/app", "team/base", "library/app"):
        await old_and_new_tags(registry, name)
    shown = json.loads((await registry.call("GET", "/v2/_retention", budget=60)).body)
    assert shown["rules"] == RULES
    by_name = {one["name"]: one for one in shown["repositories"]}
    assert set(by_name) == {"team/app", "team/base"}
    assert by_name["team/app"]["tags"] == ["a", "b"]
    assert by_name["team/base"]["tags"] == ["a", "b", "c", "d", "latest", "v1"]
    assert len(by_name["team/app"]["manifests"]) == 2
    for _ in range(3):
        await one_pass(registry)
    assert await tags(registry, "team/app") == ["a", "b", "c", "d", "latest", "v1"]
    registry.settings = read_settings(
        {**VARIABLES, "RETENTION_JSON": json.dumps(RULES), "RETENTION_APPLIES": "true"}.get
    )
    registry.restart()
    await one_pass(registry)
    assert "a" not in await tags(registry, "team/app")
    for _ in range(2):
        await one_pass(registry)
    assert await tags(registry, "team/app") == ["c", "d", "latest", "v1"]
    assert await tags(registry, "library/app") == ["a", "b", "c", "d", "latest", "v1"]
    for tag, status in (("a", 404), ("c", 200)):
        blob = f"/v2/team/app/blobs/{digest_of(tag.encode())}"
        assert (await registry.call("GET", blob)).status == status


async def test_a_tag_that_is_pushed_while_it_expires() -> None:
    """It stays."""
    rules = [{"repositories": "**", "keep_days": 1}]
    registry = with_settings(RETENTION_JSON=json.dumps(rules), RETENTION_APPLIES="true")
    manifest = await push_image(registry, NAME, "1", [b"layer"])
    registry.clock.now += 2 * DAY
    pushed = False

    def push(call: str, key: str) -> None:
        nonlocal pushed
        if (call, key) == ("put", f"{NAME}/manifests/1") and not pushed:
            pushed = True
            stored = registry.bucket.objects[key]
            registry.clock.now += 1
            registry.bucket.seed(key, manifest, stored.attributes, stored.checksum)

    registry.bucket.fail = push
    await one_pass(registry)
    assert pushed
    assert await tags(registry, NAME) == ["1"]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ([], "it is an object"),
        ({"repositories": "a"}, "does not say"),
        ({"keep_days": 1}, "it is an object"),
        ({"repositories": "a", "keep": 1}, "there is no 'keep'"),
        ({"repositories": "A", "keep_days": 1}, "glob"),
        ({"repositories": "a", "keep_days": 0}, "keep_days is a number"),
        ({"repositories": "a", "keep_newest": True}, "keep_newest is a number"),
        ({"repositories": "a", "keep_tags": "v*", "keep_days": 1}, "keep_tags is a list"),
        ({"repositories": "a", "keep_tags": ["v*"]}, "give one of them"),
    ],
)
def test_rules_that_make_no_sense(rule: Any, message: str) -> None:
    """A sentence that says which one and why."""
    with pytest.raises(ValueError, match="rule 1: ") as error:
        parse_rules(json.dumps([rule]))
    assert message in str(error.value)


# ------------------------------------------------------------------ verification
async def verify(registry: FakeRegistry, name: str = NAME) -> dict[str, Any]:
    """Ask to the end; all problems."""
    problems: list[dict[str, str]] = []
    manifests = 0
    url = f"/v2/{name}/gc?mode=verify"
    for _ in range(500):
        answer = await registry.call("GET", url)
        assert answer.status == 200, answer
        value = json.loads(answer.body)
        problems += value["problems"]
        manifests += value["manifests"]
        if "cursor" not in value:
            return {"problems": problems, "manifests": manifests}
        url = f"/v2/{name}/gc?mode=verify&cursor={value['cursor']}"
    raise AssertionError("it never ends")


async def test_verification(registry: FakeRegistry) -> None:
    """A whole repository has no problems; each kind of damage is named, with the manifest that has it."""
    manifest = await push_image(registry, NAME, "1", [LARGE, b"small"])
    assert await verify(registry) == {"problems": [], "manifests": 2}
    link = registry.bucket.objects[f"{NAME}/blobs/{digest_of(LARGE)}"]
    target = f"_data/{link.attributes.metadata['target']}"
    data = registry.bucket.objects.pop(target)
    (problem, _) = (await verify(registry))["problems"]
    assert problem == {"manifest": "1", "problem": f"blob {digest_of(LARGE)} is not there"}
    registry.bucket.objects[target] = data
    registry.bucket.seed(f"{NAME}/blobs/{digest_of(b'small')}", b"smaller", NO_ATTRIBUTES, None)
    assert "has 7 bytes, and the manifest says 5" in (await verify(registry))["problems"][0]["problem"]
    registry.bucket.seed(f"{NAME}/blobs/{digest_of(b'small')}", b"small", NO_ATTRIBUTES, None)
    registry.bucket.seed(f"{NAME}/manifests/{digest_of(manifest)}", manifest + b" ", Attributes("a/b"), None)
    assert (await verify(registry))["problems"][0]["manifest"] == digest_of(manifest)


async def test_verification_of_many_manifests(registry: FakeRegistry) -> None:
    """In several requests; one that one request cannot look at is said to be so."""
    for number in range(12):
        await push_image(registry, NAME, f"tag-{number}", [bytes([number])])
    assert await verify(registry) == {"problems": [], "manifests": 24}
    layers = [bytes([number, 1]) for number in range(60)]
    for layer in (b"{}", *layers):
        await registry.push_blob(NAME, layer)
    assert (await put_manifest(registry, NAME, "wide", image(b"{}", layers))).status == 201
    problems = (await verify(registry))["problems"]
    assert {one["problem"] for one in problems} == {"has more blobs than one request can look at"}
