"""A push that is refused because a collection ran meanwhile leaves nothing that looks complete."""

import json
from collections.abc import Callable

import pytest

from registry.content.gc_register import Phase
from registry.ports.storage import NO_ATTRIBUTES, Attributes
from registry.spec.names import RepositoryName
from registry.storage import keys
from tests.fakes.client import FakeRegistry, digest_of
from tests.images import INDEX, MANIFEST, descriptor, image, put_manifest

NAME = RepositoryName("team/app")
LAYER = b"layer"
SUBJECT = descriptor(b"subject", MANIFEST)
DOCUMENT = json.dumps(image(b"{}", [LAYER], subject=SUBJECT)).encode()
DIGEST = digest_of(DOCUMENT)


async def prepared() -> FakeRegistry:
    """Return a world in which the blobs exist."""
    registry = FakeRegistry()
    for data in (b"{}", LAYER):
        await registry.push_blob(NAME, data)
    return registry


def collected(registry: FakeRegistry, *, when: str, and_then: Callable[[], None] = lambda: None) -> None:
    """Let a collection delete the layer as soon as the key `when` is put."""

    def look(call: str, key: str) -> None:
        if call == "put" and key == keys.manifest(NAME, when):  # type: ignore[arg-type]
            registry.bucket.fail = lambda call, key: None
            registry.bucket.objects.pop(f"{NAME}/blobs/{digest_of(LAYER)}", None)
            metadata = {"phase": Phase.IDLE.value, "run": "a collection", "lease": "0.0"}
            registry.bucket.seed(keys.gc_register(NAME), b"another", Attributes(metadata=metadata), None)
            and_then()

    registry.bucket.fail = look


async def statuses(registry: FakeRegistry, *references: str) -> list[int]:
    """Return the status of HEAD for each reference."""
    return [(await registry.call("HEAD", f"/v2/{NAME}/manifests/{reference}")).status for reference in references]


@pytest.mark.parametrize(
    ("reference", "when"),
    [("1", DIGEST), ("1", "1"), (DIGEST, DIGEST), (f"{DIGEST}?tag=1", DIGEST), (f"{DIGEST}?tag=1", "1")],
)
async def test_it_takes_everything_back(reference: str, when: str) -> None:
    """Tag, digest and referrers entry are gone, so a client that sends HEAD first pushes the manifest again."""
    registry = await prepared()
    collected(registry, when=when)
    answer = await put_manifest(registry, NAME, reference, DOCUMENT)
    assert (answer.status, answer.codes) == (404, ["MANIFEST_BLOB_UNKNOWN"])
    assert await statuses(registry, DIGEST, "1") == [404, 404]
    listed = await registry.call("GET", f"/v2/{NAME}/referrers/{SUBJECT['digest']}")
    assert json.loads(listed.body)["manifests"] == []
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(DOCUMENT, MANIFEST)]}
    assert (await put_manifest(registry, NAME, "index", index, INDEX)).status == 404
    await registry.push_blob(NAME, LAYER)
    assert (await put_manifest(registry, NAME, reference, DOCUMENT)).status == 201
    assert (await put_manifest(registry, NAME, "index", index, INDEX)).status == 201


async def test_what_another_push_brought_meanwhile_stays() -> None:
    """If another push brought the layer back in time, the push succeeds."""
    registry = await prepared()

    def pushed_again() -> None:
        def look(call: str, key: str) -> None:
            if call == "put" and key == keys.gc_register(NAME):
                registry.bucket.fail = lambda call, key: None
                registry.bucket.seed(f"{NAME}/blobs/{digest_of(LAYER)}", LAYER, NO_ATTRIBUTES, None)

        registry.bucket.fail = look

    collected(registry, when=DIGEST, and_then=pushed_again)
    assert (await put_manifest(registry, NAME, "1", DOCUMENT)).status == 201
    assert await statuses(registry, DIGEST, "1") == [200, 200]


async def test_the_register_is_given_back() -> None:
    """Other pushes do not wait afterwards."""
    registry = await prepared()
    collected(registry, when=DIGEST)
    assert (await put_manifest(registry, NAME, "1", DOCUMENT)).status == 404
    await registry.push_blob(NAME, LAYER)
    before = registry.clock.now
    assert (await put_manifest(registry, NAME, "1", DOCUMENT)).status == 201
    assert registry.clock.now - before < 5


async def test_a_tag_that_moved_meanwhile_stays_moved() -> None:
    """A tag that another push moved is neither written again nor taken back."""
    registry = await prepared()
    other = json.dumps(image(b"{}", [])).encode()
    assert (await put_manifest(registry, NAME, "other", other)).status == 201
    moved = registry.bucket.objects[f"{NAME}/manifests/other"]

    def look(call: str, key: str) -> None:
        # The push reads the register after it put the tags.
        if call == "head" and key == keys.gc_register(NAME) and f"{NAME}/manifests/1" in registry.bucket.objects:
            registry.bucket.fail = lambda call, key: None
            registry.bucket.objects[f"{NAME}/manifests/1"] = moved
            registry.bucket.objects.pop(f"{NAME}/blobs/{digest_of(LAYER)}", None)
            metadata = {"phase": Phase.IDLE.value, "run": "a collection", "lease": "0.0"}
            registry.bucket.seed(keys.gc_register(NAME), b"another", Attributes(metadata=metadata), None)

    registry.bucket.fail = look
    assert (await put_manifest(registry, NAME, f"{DIGEST}?tag=1", DOCUMENT)).status == 404
    assert (await registry.call("GET", f"/v2/{NAME}/manifests/1")).body == other
    assert await statuses(registry, DIGEST) == [404]
