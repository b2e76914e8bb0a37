"""Migration of a bucket of serverless-registry."""

import json
from typing import Any

import pytest

from registry.ports.storage import NO_ATTRIBUTES, Attributes, StorageError
from registry.spec.names import parse_digest
from registry.storage.calls import DEFAULT_CALLS
from registry.upkeep import migration
from registry.uploads.parts import SMALL_PART
from tests.fakes.client import FakeRegistry, digest_of
from tests.images import image
from tests.unit.upkeep.test_legacy_bucket import LINKS, MANIFESTS, legacy  # noqa: F401 - a fixture
from tests.unit.uploads.test_uploads import bytes_of, check_blob

LARGE = bytes_of(SMALL_PART + 5)
LINK = "X-Serverless-Registry-Symlink"
DAY = 24 * 3600


async def migrate(registry: FakeRegistry, requests: int = 500) -> dict[str, Any]:
    """Repeat the migration until it is done; return the last answer."""
    for _ in range(requests):
        answer = await registry.call("POST", "/v2/_migrate", budget=DEFAULT_CALLS)
        assert answer.status == 200, answer
        result: dict[str, Any] = json.loads(answer.body)
        if result["done"]:
            return result
    raise AssertionError("it does not end")


async def test_the_legacy_bucket(legacy: FakeRegistry) -> None:  # noqa: F811
    """Every link becomes a copy. All images can still be pulled. A second run finds nothing."""
    pulled = {}
    for found in LINKS:
        name, _, digest = found["key"].rpartition("/blobs/")
        pulled[found["key"]] = (await legacy.call("GET", f"/v2/{name}/blobs/{digest}")).body
    result = await migrate(legacy)
    assert result["links"] == len(LINKS)
    assert result["problems"] == []
    for key, data in pulled.items():
        assert legacy.bucket.data(key) == data
        assert legacy.bucket.objects[key].attributes.metadata == {}
    for found in MANIFESTS:
        name, _, reference = found["key"].rpartition("/manifests/")
        assert (await legacy.call("GET", f"/v2/{name}/manifests/{reference}")).status == 200
    assert await migrate(legacy) == result
    assert "_registry/format" in legacy.bucket.objects


async def test_the_legacy_bucket_is_cleaned_up(legacy: FakeRegistry) -> None:  # noqa: F811
    """A week later, no keys of serverless-registry's uploads and collections are left."""
    legacy.clock.now += 8 * DAY
    await migrate(legacy)
    keys = set(legacy.bucket.objects)
    assert not [key for key in keys if "/uploads/" in key or "/gc/" in key or "/insertion/" in key]
    names = {found["key"].partition("/")[0] for found in MANIFESTS}
    assert {key.partition("/")[0] for key in keys} == {"_registry", *names}


async def test_large_blobs_are_stored_once(registry: FakeRegistry) -> None:
    """The source and every mirror link to one data object, each with a ref."""
    digest = digest_of(LARGE)
    registry.bucket.seed(f"source/blobs/{digest}", LARGE, Attributes(), parse_digest(digest))
    mirrors = [f"mirror{number}" for number in range(5)]
    for name in mirrors:
        registry.bucket.seed(f"{name}/blobs/{digest}", b"link", Attributes(metadata={LINK: "source"}), None)
    result = await migrate(registry)
    assert (result["links"], result["copied_bytes"]) == (5, len(LARGE))
    assert len(registry.bucket.keys("_data/")) == 1
    assert len(registry.bucket.keys("_refs/")) == 6
    for name in ("source", *mirrors):
        await check_blob(registry, LARGE, name)


async def test_referrers_of_an_older_sr(registry: FakeRegistry) -> None:
    """Manifests stored without their subject get referrers entries; lists that clients kept in tags are counted."""
    subject = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest_of(b"s"), "size": 1}
    for document in (image(b"{}", []), image(b"{}", [], subject=subject)):
        data = json.dumps(document).encode()
        attributes = Attributes(document["mediaType"])
        registry.bucket.seed(f"a/manifests/{digest_of(data)}", data, attributes, parse_digest(digest_of(data)))
    registry.bucket.seed(f"a/manifests/{digest_of(b's').replace(':', '-')}", b"{}", Attributes(), None)
    result = await migrate(registry)
    assert (result["referrers"], result["referrers_tags"]) == (1, 1)
    assert registry.bucket.keys("a/_referrers/") == [f"a/_referrers/{digest_of(b's')}/{digest_of(data)}"]


async def test_what_cannot_be_migrated_is_told(registry: FakeRegistry) -> None:
    """A dangling link, a link to damaged bytes, and an invalid manifest are reported and stay."""
    registry.bucket.seed(f"a/blobs/{digest_of(b'x')}", b"link", Attributes(metadata={LINK: "gone"}), None)
    registry.bucket.seed(f"b/blobs/{digest_of(b'y')}", b"link", Attributes(metadata={LINK: "c"}), None)
    registry.bucket.seed(f"c/blobs/{digest_of(b'y')}", b"damaged", Attributes(), None)
    registry.bucket.seed(f"d/manifests/{digest_of(b'z')}", b"no manifest", Attributes(), None)
    before = {key: registry.bucket.data(key) for key in registry.bucket.objects}
    result = await migrate(registry)
    assert [problem.partition(" ")[0] for problem in result["problems"]] == [
        f"a/blobs/{digest_of(b'x')}",
        f"b/blobs/{digest_of(b'y')}",
        f"d/manifests/{digest_of(b'z')}",
    ]
    assert {key: registry.bucket.data(key) for key in before} == before


@pytest.mark.parametrize("target", ["gone", "../c", "", "a"], ids=["dangling", "no name", "empty", "itself"])
async def test_a_link_that_makes_no_sense_stops_nothing(registry: FakeRegistry, target: str) -> None:
    """It is reported; later links are migrated, and blobs can be deleted afterwards."""
    broken = f"a/blobs/{digest_of(b'x')}"
    registry.bucket.seed(broken, b"link", Attributes(metadata={LINK: target}), None)
    registry.bucket.seed(f"b/blobs/{digest_of(b'y')}", b"link", Attributes(metadata={LINK: "c"}), None)
    registry.bucket.seed(f"c/blobs/{digest_of(b'y')}", b"y", Attributes(), None)
    result = await migrate(registry)
    assert [problem.partition(" ")[0] for problem in result["problems"]] == [broken]
    assert result["links"] == 1
    for name, data in (("a", b"x"), ("b", b"y")):
        assert (await registry.call("DELETE", f"/v2/{name}/blobs/{digest_of(data)}")).status == 202


async def test_a_blob_larger_than_one_put(registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """One put cannot copy it: it is reported, and the migration continues."""
    monkeypatch.setattr(migration, "MAX_PUT_SIZE", len(LARGE) - 1)
    registry.bucket.seed(f"a/blobs/{digest_of(LARGE)}", b"link", Attributes(metadata={LINK: "c"}), None)
    registry.bucket.seed(f"c/blobs/{digest_of(LARGE)}", LARGE, Attributes(), None)
    (problem,) = (await migrate(registry))["problems"]
    assert problem.startswith(f"a/blobs/{digest_of(LARGE)} ")
    await check_blob(registry, LARGE, "a")


async def test_odd_keys(registry: FakeRegistry) -> None:
    """Invalid digests that serverless-registry accepted, and foreign keys, stay."""
    odd = [
        "a/manifests/sha256:abc",
        "a/manifests/",
        "a/blobs/x",
        "gc/marker",
        "uploads/x",
        "A//b",
        "ä/manifests/1",
        "z",
    ]
    for key in odd:
        registry.bucket.seed(key, b"odd", NO_ATTRIBUTES, None)
    registry.bucket.seed(f"y/blobs/{digest_of(b'y')}", b"link", Attributes(metadata={LINK: "c"}), None)
    registry.bucket.seed(f"c/blobs/{digest_of(b'y')}", b"y", Attributes(), None)
    registry.clock.now += 8 * DAY
    result = await migrate(registry)
    assert (result["links"], result["problems"]) == (1, [])
    assert set(odd) <= set(registry.bucket.objects)


async def test_two_hundred_links_in_a_handful_of_requests(registry: FakeRegistry) -> None:
    """Within the R2 calls of Workers Paid."""
    for number in range(200):
        data = str(number).encode()
        registry.bucket.seed(f"a/blobs/{digest_of(data)}", b"link", Attributes(metadata={LINK: "c"}), None)
        registry.bucket.seed(f"c/blobs/{digest_of(data)}", data, Attributes(), None)
    assert (await migrate(registry, requests=3))["links"] == 200


async def test_a_step_that_fails_keeps_what_it_did(registry: FakeRegistry) -> None:
    """R2 fails at one object: 503, and the next request continues there."""
    for number in range(20):
        data = str(number).encode()
        registry.bucket.seed(f"a{number:02}/blobs/{digest_of(data)}", b"link", Attributes(metadata={LINK: "c"}), None)
        registry.bucket.seed(f"c/blobs/{digest_of(data)}", data, Attributes(), None)

    def fail(call: str, key: str) -> None:
        if key.startswith("a10/"):
            raise StorageError("broken")

    registry.bucket.fail = fail
    assert (await registry.call("POST", "/v2/_migrate", budget=DEFAULT_CALLS)).status == 503
    looked_at: list[str] = []
    registry.bucket.fail = lambda call, key: looked_at.append(key)
    assert (await migrate(registry))["links"] == 20
    assert not [key for key in looked_at if key.startswith("a09/")]


# ------------------------------------------------------------------ leftovers of serverless-registry
UUID = "9ddeff7d-90dc-4f94-801c-578a9976778f"
LEFT = [
    UUID,
    f"{UUID}-helper",
    f"a/uploads/{UUID}",
    "a/gc/marker",
    "a/gc/last_update",
    "a/insertion/last_update",
    f"a/insertion/{UUID}",
]
# Keys of repositories named like a folder of serverless-registry, our own keys, and foreign keys.
KEPT = ["a/gc/_gc", "a/insertion/_gc", f"a/uploads/{UUID}/{0:016}", "a/uploads/x", f"{UUID}/x", "marker", f"a/{UUID}"]
KEPT += [f"Not a name/uploads/{UUID}", "a/gc/manifests/marker", f"a/manifests/{UUID}"]


async def test_what_serverless_registry_left(registry: FakeRegistry) -> None:
    """Upload states, upload data and markers are deleted when they are a week old."""
    for key in (*LEFT, *KEPT):
        registry.bucket.seed(key, b"", NO_ATTRIBUTES, None)
    registry.clock.now += 8 * DAY
    registry.bucket.seed("b/gc/marker", b"", NO_ATTRIBUTES, None)
    result = await migrate(registry)
    assert (result["leftovers"], result["young"]) == (len(LEFT), 1)
    assert not set(LEFT) & set(registry.bucket.objects)
    assert set(KEPT) <= set(registry.bucket.objects)


async def test_leftovers_that_are_too_young_go_a_week_later(registry: FakeRegistry) -> None:
    """An earlier request lists nothing. Blobs may be deleted all the time."""
    registry.bucket.seed("b/gc/marker", b"", NO_ATTRIBUTES, None)
    assert (await migrate(registry))["young"] == 1
    registry.bucket.reset()
    assert (await migrate(registry))["young"] == 1
    assert registry.bucket.usage.class_a == 0
    registry.clock.now += 7 * DAY
    assert (await registry.call("GET", "/v2/a/gc?mode=verify")).status in (200, 404)
    result = await migrate(registry)
    assert (result["done"], result["leftovers"], result["young"]) == (True, 1, 0)
    assert "b/gc/marker" not in registry.bucket.objects
    registry.clock.now += 70 * DAY
    registry.bucket.reset()
    await migrate(registry)
    assert registry.bucket.usage.class_a == 0


async def test_an_empty_bucket_is_ours_at_once(registry: FakeRegistry) -> None:
    """An empty bucket needs no migration; a bucket with any object does."""
    await registry.call("POST", "/v2/a/blobs/uploads/")
    assert "_registry/format" in registry.bucket.objects
    other = FakeRegistry()
    other.bucket.seed("a/manifests/1", b"", Attributes(), None)
    await other.call("POST", "/v2/a/blobs/uploads/")
    assert "_registry/format" not in other.bucket.objects


async def test_migrating_needs_the_full_account(registry: FakeRegistry) -> None:
    """It needs all permissions, because it rewrites the bucket."""
    assert (await registry.call("POST", "/v2/_migrate", user=("reader", "looks-only"))).status == 403
