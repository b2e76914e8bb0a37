"""Retention: which tags are deleted, what the preview shows, and that no concurrent push loses a tag."""

import asyncio
import contextlib
import io
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.ports.platform import Platform
from registry.ports.storage import NO_ATTRIBUTES, Attributes
from registry.settings import read_settings
from registry.spec.endpoints import Mode
from registry.storage.calls import Calls
from registry.upkeep import collection
from registry.upkeep.collection import Collector
from registry.upkeep.garbage import Rules
from registry.upkeep.inventory import Inventory
from registry.upkeep.retention import RetentionRule, attached_to, parse_rules
from tests.fakes.client import VARIABLES, FakeRegistry, digest_of
from tests.fakes.r2 import Usage
from tests.images import MANIFEST, image, push_image
from tests.interleavings import Actor, Scene, Violation, World
from tests.unit.upkeep import scenes
from tests.unit.upkeep.test_cron import one_pass, with_settings
from tests.unit.upkeep.test_mutants import leaving_out

NAME = "team/app"
DAY = 24 * 3600
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


def applying(rules: object) -> FakeRegistry:
    """Return a registry that applies these rules."""
    return with_settings(RETENTION_JSON=json.dumps(rules), RETENTION_APPLIES="true")


async def old_and_new_tags(registry: FakeRegistry, name: str) -> None:
    """Push a tag every five days, the first ones older than any rule keeps."""
    for tag in ("v1", "latest", "a", "b", "c", "d"):
        await push_image(registry, name, tag, [tag.encode()])
        registry.clock.now += 5 * DAY


async def tags(registry: FakeRegistry, name: str = NAME) -> list[str]:
    """List the tags."""
    return list(json.loads((await registry.call("GET", f"/v2/{name}/tags/list")).body)["tags"])


async def preview(registry: FakeRegistry, url: str = "/v2/_retention") -> dict[str, Any]:
    """Return a page of the preview."""
    answer = await registry.call("GET", url, budget=registry.settings.r2_calls)
    assert answer.status == 200, answer
    shown: dict[str, Any] = json.loads(answer.body)
    return shown


async def test_retention() -> None:
    """First previewed, then applied: new, young and named tags stay; manifests and blobs follow their tags."""
    registry = with_settings(RETENTION_JSON=json.dumps(RULES))
    for name in ("team/app", "team/base", "library/app"):
        await old_and_new_tags(registry, name)
    shown = await preview(registry)
    assert (shown["rules"], shown["is_complete"], shown["looked_at"]) == (RULES, True, 2)
    by_name = {one["name"]: one for one in shown["repositories"]}
    assert set(by_name) == {"team/app", "team/base"}
    assert by_name["team/app"]["tags"] == ["a", "b"]
    assert by_name["team/base"]["tags"] == ["v1", "latest", "a", "b", "c", "d"]
    assert (len(by_name["team/app"]["manifests"]), by_name["team/app"]["counts"]["blobs"]) == (2, 2)
    for _ in range(3):
        await one_pass(registry)
    assert await tags(registry, "team/app") == ["a", "b", "c", "d", "latest", "v1"]
    registry.settings = read_settings(
        {**VARIABLES, "RETENTION_JSON": json.dumps(RULES), "RETENTION_APPLIES": "true"}.get
    )
    registry.restart()
    await one_pass(registry)
    assert await tags(registry, "team/app") == ["c", "d", "latest", "v1"]
    assert await tags(registry, "library/app") == ["a", "b", "c", "d", "latest", "v1"]
    for tag, status in (("a", 404), ("c", 200)):
        blob = f"/v2/team/app/blobs/{digest_of(tag.encode())}"
        assert (await registry.call("GET", blob)).status == status


@pytest.mark.parametrize("page", [10, 1000])
async def test_many_tags(page: int) -> None:
    """One pass deletes all expired tags, the oldest first, in few R2 calls."""
    registry = applying([{"repositories": "**", "keep_newest": 10}])
    manifest = await push_image(registry, NAME, "first", [b"layer"])
    registry.bucket.page = registry.bucket.page_with_metadata = page
    for number in range(2_000):
        registry.clock.now += 1
        registry.bucket.seed(f"{NAME}/manifests/{number * 7919 % 2000:04}", manifest, Attributes(MANIFEST), None)
        registry.bucket.objects[f"{NAME}/manifests/{number * 7919 % 2000:04}"].checksum = registry.bucket.objects[
            f"{NAME}/manifests/first"
        ].checksum
    deleted: list[str] = []
    delete = registry.bucket.delete

    async def note(batch: list[str]) -> None:
        deleted.extend(batch)
        await delete(batch)

    registry.bucket.delete = note  # type: ignore[method-assign,assignment]
    before = registry.bucket.usage = Usage()
    assert (await one_pass(registry)).tags == 1_991
    assert len(await tags(registry)) == 10
    at = {key: registry.bucket.objects.get(key) for key in deleted}
    assert not any(at.values())
    order = [key.rpartition("/")[2] for key in deleted if "/manifests/" in key]
    assert order[0] == "first"
    assert order[1:] == [f"{number * 7919 % 2000:04}" for number in range(1_990)]
    assert before.class_a + before.class_b + before.free < (20 if page == 1000 else 500)


async def test_what_belongs_to_an_image_stays_with_it() -> None:
    """Tags of signatures, SBOMs and referrers lists stay with their image, and do not count as newest."""
    registry = applying([{"repositories": "**", "keep_newest": 2, "delete_untagged_after_days": 1}])
    attached: dict[str, list[str]] = {}
    for tag in ("1", "2", "3"):
        manifest = await push_image(registry, NAME, tag, [tag.encode()])
        stem = digest_of(manifest).replace(":", "-")
        attached[tag] = [stem, f"{stem}.sig", f"{stem}.att", f"{stem}.sbom"]
        for one in attached[tag]:
            registry.clock.now += 1
            await push_image(registry, NAME, one, [one.encode()])
        registry.clock.now += DAY
    elsewhere = digest_of(b"an image of another repository").replace(":", "-") + ".sig"
    await push_image(registry, NAME, elsewhere, [b"signature"])
    registry.clock.now += 8 * DAY
    await one_pass(registry)
    assert await tags(registry) == sorted(["3", *attached["1"], *attached["2"], *attached["3"], elsewhere])
    await one_pass(registry)
    # A signature whose image is elsewhere, or gone, is a tag like any other.
    assert await tags(registry) == sorted(["3", *attached["3"], elsewhere])
    assert len(registry.bucket.keys(f"{NAME}/manifests/sha256:")) == 6


async def test_a_tag_that_is_pushed_while_it_expires() -> None:
    """The tag stays."""
    registry = applying([{"repositories": "**", "keep_days": 1}])
    manifest = await push_image(registry, NAME, "1", [b"layer"])
    registry.clock.now += 2 * DAY
    key = f"{NAME}/manifests/1"
    stored = registry.bucket.objects[key]
    pushed: list[str] = []

    def push(call: str, where: str) -> None:
        if (call, where) == ("put", f"{NAME}/_gc") and not pushed:
            pushed.append(where)
            registry.clock.now += 1
            registry.bucket.seed(key, manifest, stored.attributes, stored.checksum)

    registry.bucket.fail = push
    await one_pass(registry)
    assert pushed
    assert await tags(registry) == ["1"]


# ------------------------------------------------------------------ beside pushes, in every order
RULE = parse_rules('[{"repositories": "**", "keep_days": 1, "delete_untagged_after_days": 1}]')[0]


async def retain(platform: Platform) -> None:
    """Run the clean-up's collection in a repository whose tags have all expired."""
    rules = Rules(Mode.UNTAGGED, 0)
    run = collection.begin(platform, scenes.R, rules, retention=RULE)
    await Collector(platform, run, Calls(200)).collect()


def scene(push: scenes.Kind, *others: Actor) -> Scene:
    """Return a scene in which all tags are old; an acknowledged push must keep its tags."""

    async def look(world: World) -> None:
        if world.outcomes[0] == "done":
            manifest, names = push.acknowledges or (b"", ())
            assert all(scenes.at(world, tag) == manifest for tag in names), "a tag is gone"
            scenes.check_whole(world, manifest, frozenset())
        scenes.check_links(world)

    return Scene("retention", scenes.begin, [push.act, *others], look)


PUSHES = [kind for kind in scenes.KINDS if kind.acknowledges is not None]


@pytest.mark.parametrize("push", PUSHES, ids=lambda kind: kind.act.__name__)
def test_retention_beside_a_push(push: scenes.Kind) -> None:
    """In every order; with a collection or a second run beside them by seeds."""
    scenes.begin()
    with scenes.scaled_down(), contextlib.redirect_stdout(io.StringIO()):
        count = asyncio.run(scene(push, retain).every_schedule())
        for other in (retain, scenes.collect_untagged, scenes.delete_tagged):
            if other is not scenes.delete_tagged or push.act is not scenes.put_tagged_again:
                count += asyncio.run(scene(push, retain, other).random_schedules(range(100)))
    scenes.counted["schedules"] += count
    assert count > 300


def test_the_checker_finds_a_tag_that_is_not_looked_at_again() -> None:
    """Without a second listing, a tag pushed meanwhile is lost."""
    push = next(kind for kind in PUSHES if kind.act is scenes.put_tagged_again)
    scenes.begin()
    mutant = leaving_out(Inventory, "_see", ("self.going.pop(reference, None)", "pass"))
    with scenes.scaled_down(), mutant, pytest.raises(Violation), contextlib.redirect_stdout(io.StringIO()):
        asyncio.run(scene(push, retain).every_schedule())


# ------------------------------------------------------------------ the preview
EMPTY = json.dumps(image(b"{}", [])).encode()


async def test_the_preview_of_many_repositories() -> None:
    """All repositories, page by page, each once. A page tells whether it is the last, and where to continue."""
    registry = with_settings(RETENTION_JSON=json.dumps([{"repositories": "**", "keep_days": 1}]), R2_CALLS="100")
    await registry.call("POST", "/v2/a/blobs/uploads/")
    names = [f"r{number:03}" for number in range(120)]
    for name in names:
        for tag in range(2):
            registry.bucket.seed(f"{name}/manifests/{tag}", EMPTY, Attributes(MANIFEST), None)
    registry.clock.now += 2 * DAY
    registry.bucket.page = registry.bucket.page_with_metadata = 1
    url, seen, pages = "/v2/_retention", list[str](), 0
    while url:
        shown = await preview(registry, url)
        assert shown["repositories"] or shown["is_complete"]
        seen += [one["name"] for one in shown["repositories"]]
        assert [one["tags"] for one in shown["repositories"]] == [["0", "1"]] * len(shown["repositories"])
        url = "" if shown["is_complete"] else f"/v2/_retention?last={shown['last']}"
        assert shown["is_complete"] or f"GET {url} shows more" in shown["help"]
        pages += 1
    assert seen == names
    assert pages > 3
    registry.bucket.page = registry.bucket.page_with_metadata = 1000
    registry.settings = replace(registry.settings, r2_calls=200)
    registry.restart()
    shown = await preview(registry)
    assert (shown["is_complete"], shown["looked_at"], len(shown["repositories"])) == (True, 120, 120)


async def test_what_the_preview_cannot_tell() -> None:
    """A repository that needs too many R2 calls is named, and so is one with an unreadable manifest."""
    registry = with_settings(RETENTION_JSON=json.dumps([{"repositories": "**", "keep_days": 1}]), R2_CALLS="100")
    await registry.push_blob("c", b"x")
    registry.bucket.seed("a/manifests/odd", b"not JSON", NO_ATTRIBUTES, None)
    for number in range(300):
        registry.bucket.seed(f"b/manifests/{number}", EMPTY, Attributes(MANIFEST), None)
    registry.bucket.page = registry.bucket.page_with_metadata = 1
    first = await preview(registry)
    assert "odd cannot be read" in first["repositories"][0]["problem"]
    second = await preview(registry, f"/v2/_retention?last={first['last']}")
    assert "R2_CALLS is 100" in second["repositories"][0]["problem"]
    third = await preview(registry, f"/v2/_retention?last={second['last']}")
    assert third["is_complete"]


# ------------------------------------------------------------------ rules
@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans())), st.integers(1, 4) | st.none(), st.integers(1, 5) | st.none()
)
def test_which_tags_stay(found: list[tuple[int, bool]], newest: int | None, days: int | None) -> None:
    """The newest of those that count, the young and the named ones; all, without keep_newest and keep_days."""
    whole = RetentionRule(RULE.repositories, newest, days, parse_rules(json.dumps(RULES))[0].keep_tags, None)
    names = [f"v{at}" if at % 5 == 4 else f"t{at}" for at in range(len(found))]
    put = [-age * DAY for age, _ in found]
    kept = whole.kept(names, put, [counts for _, counts in found], 0.0)
    for at, (age, counts) in enumerate(found):
        newer = sum(
            other_counts and (other, names[there]) < (age, names[at])
            for there, (other, other_counts) in enumerate(found)
        )
        stays = (newest is None and days is None) or (newest is not None and counts and newer < newest)
        stays = stays or (days is not None and age < days) or names[at].startswith("v")
        assert bool(kept[at]) is stays


def test_what_a_tag_belongs_to() -> None:
    """Cosign's and the specification's names, and names that only look like them."""
    stem = f"sha256-{'a' * 64}"
    for tag in (stem, f"{stem}.sig", f"{stem}.att", f"{stem}.sbom", f"{stem}.sig.1"):
        assert attached_to(tag) == f"sha256:{'a' * 64}"
    assert attached_to(f"sha512-{'b' * 64}") == f"sha512:{'b' * 64}"
    for tag in ("sha256-abc", f"x{stem}", f"{stem}-1", "latest", f"sha256-{'A' * 64}"):
        assert attached_to(tag) is None


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ([], "must be an object"),
        ({"repositories": "a"}, "does not say"),
        ({"keep_days": 1}, "must be an object"),
        ({"repositories": "a", "keep": 1}, "there is no 'keep'"),
        ({"repositories": "A", "keep_days": 1}, "glob"),
        ({"repositories": "a", "keep_days": 0}, "keep_days is a number"),
        ({"repositories": "a", "keep_newest": True}, "keep_newest is a number"),
        ({"repositories": "a", "keep_tags": "v*", "keep_days": 1}, "keep_tags must be a list"),
        ({"repositories": "a", "keep_tags": ["v*"]}, "add one of them"),
    ],
)
def test_rules_that_make_no_sense(rule: Any, message: str) -> None:
    """An invalid rule is named, with the reason."""
    with pytest.raises(ValueError, match="rule 1: ") as error:
        parse_rules(json.dumps([rule]))
    assert message in str(error.value)
