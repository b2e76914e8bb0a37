"""Migrating a bucket that SR wrote."""

import json
from typing import Any

from registry.names import parse_digest
from registry.storage import Attributes
from registry.upload_parts import SMALL_PART
from tests.fakes.client import FakeRegistry, digest_of
from tests.images import image
from tests.test_legacy_bucket import LINKS, MANIFESTS, legacy  # noqa: F401 - a fixture
from tests.test_uploads import bytes_of, check_blob

LARGE = bytes_of(SMALL_PART + 5)
LINK = "X-Serverless-Registry-Symlink"


async def migrate(registry: FakeRegistry) -> dict[str, Any]:
    """Steps until it is done; the last answer."""
    for _ in range(500):
        answer = await registry.call("POST", "/v2/_migrate")
        assert answer.status == 200, answer
        result: dict[str, Any] = json.loads(answer.body)
        if result["done"]:
            return result
    raise AssertionError("it does not end")


async def test_the_legacy_bucket(legacy: FakeRegistry) -> None:  # noqa: F811
    """Every link becomes a copy of its own; all that pulled before pulls after; a second run finds nothing."""
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
    """Manifests stored without a note of their subject are listed; lists that clients kept in tags are counted."""
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
    """A link to nothing, one to bytes that are damaged, and a manifest that is none: named, and left alone."""
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


async def test_repositories_that_are_named_like_what_serverless_registry_left(registry: FakeRegistry) -> None:
    """Their registers, tags and uploads are none of its leftovers, which go."""
    uuid = f"{'0' * 8}-{'-'.join(['0' * 4] * 3)}-{'0' * 12}"
    left = [
        "a/gc/marker",
        "a/gc/last_update",
        "a/insertion/last_update",
        f"a/insertion/{uuid}",
        f"a/uploads/{uuid}",
        uuid,
    ]
    kept = ["a/gc/_gc", "a/insertion/_gc", "a/gc/manifests/marker", f"a/uploads/{uuid}/{0:016}", f"a/manifests/{uuid}"]
    for key in (*left, *kept):
        registry.bucket.seed(key, b"", Attributes(), None)
    assert (await migrate(registry))["leftovers"] == len(left)
    assert [key in registry.bucket.objects for key in left] == [False] * len(left)
    assert [key in registry.bucket.objects for key in kept] == [True] * len(kept)


async def test_an_empty_bucket_is_ours_at_once(registry: FakeRegistry) -> None:
    """Nothing to migrate; a bucket with something in it is not declared so."""
    await registry.call("POST", "/v2/a/blobs/uploads/")
    assert "_registry/format" in registry.bucket.objects
    other = FakeRegistry()
    other.bucket.seed("a/manifests/1", b"", Attributes(), None)
    await other.call("POST", "/v2/a/blobs/uploads/")
    assert "_registry/format" not in other.bucket.objects


async def test_migrating_needs_the_full_account(registry: FakeRegistry) -> None:
    """It rewrites the bucket."""
    assert (await registry.call("POST", "/v2/_migrate", user=("reader", "looks-only"))).status == 403
