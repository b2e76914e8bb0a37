"""Checks of what a pushed manifest refers to: few R2 calls, missing content named, existing content kept."""

import json
import re

import pytest

from registry.ports.storage import NO_ATTRIBUTES, Attributes
from registry.settings import read_settings
from registry.spec import manifest_references
from registry.spec.manifest_format import parse_manifest
from registry.spec.manifest_references import pack, references_of
from registry.storage.calls import DEFAULT_CALLS
from tests.fakes.client import VARIABLES, Answer, FakeRegistry, digest_of
from tests.images import INDEX, LAYER, MANIFEST, descriptor, image, push_image, put_manifest

NAME = "team/app"
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


async def collect(registry: FakeRegistry) -> None:
    """Collect all unreferenced garbage."""
    registry.clock.now += 48 * 3600
    answer = await registry.call("POST", f"/v2/{NAME}/gc?grace=0")
    assert json.loads(answer.body)["success"], answer


# ------------------------------------------------------------------ layers that may lie elsewhere
async def test_a_foreign_layer_that_was_pushed_is_kept(registry: FakeRegistry) -> None:
    """A manifest protects a foreign layer that exists (Windows, --allow-nondistributable-artifacts)."""
    for data in (b"{}", b"base layer"):
        await registry.push_blob(NAME, data)
    document = image(b"{}", [])
    document["layers"] = [descriptor(b"base layer", FOREIGN)]
    assert (await put_manifest(registry, NAME, "windows", document)).status == 201
    await collect(registry)
    assert (await registry.call("GET", f"/v2/{NAME}/blobs/{digest_of(b'base layer')}")).body == b"base layer"


async def test_a_foreign_layer_of_another_size(registry: FakeRegistry) -> None:
    """A foreign layer may be missing, but an existing one must have the size that the manifest states."""
    for data in (b"{}", b"base layer"):
        await registry.push_blob(NAME, data)
    document = image(b"{}", [])
    document["layers"] = [descriptor(b"base layer", FOREIGN) | {"size": 1}]
    answer = await put_manifest(registry, NAME, "windows", document)
    assert (answer.status, answer.codes) == (400, ["MANIFEST_INVALID"])


# ------------------------------------------------------------------ indexes
def index_over(*children: bytes, media_type: str = MANIFEST) -> bytes:
    """Return an index of manifests, or of indexes."""
    entries = [descriptor(child, media_type) for child in children]
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()


async def put(registry: FakeRegistry, reference: str, document: bytes, media_type: str = MANIFEST) -> Answer:
    """Send PUT of a manifest, with the R2 calls of Workers Paid."""
    url, headers = f"/v2/{NAME}/manifests/{reference}", {"Content-Type": media_type}
    return await registry.call("PUT", url, document, headers=headers, budget=DEFAULT_CALLS)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("is_told", [True, False], ids=["metadata", "read"])
async def test_an_index_is_checked_through(
    registry: FakeRegistry, depth: int, algorithm: str, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a layer deep below a nested index is missing, the outer index is refused, naming its incomplete child."""
    if not is_told:
        monkeypatch.setattr(manifest_references, "MAX_LENGTH", 0)
    for data in (b"{}", b"layer"):
        await registry.push_blob(NAME, data)
    document, media_type = json.dumps(image(b"{}", [b"layer"])).encode(), MANIFEST
    for _ in range(depth):
        assert (await put(registry, digest_of(document, algorithm), document, media_type)).status == 201
        entry = descriptor(document, media_type) | {"digest": digest_of(document, algorithm)}
        child, media_type = entry["digest"], INDEX
        document = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
    layer = registry.bucket.objects.pop(f"{NAME}/blobs/{digest_of(b'layer')}")
    answer = await put(registry, "outer", document, INDEX)
    assert (answer.status, answer.codes) == (404, ["MANIFEST_BLOB_UNKNOWN"])
    assert json.loads(answer.body)["errors"][0]["detail"] == {"digest": child}
    registry.bucket.objects[f"{NAME}/blobs/{digest_of(b'layer')}"] = layer
    assert (await put(registry, "outer", document, INDEX)).status == 201


async def test_a_child_of_a_child_is_gone(registry: FakeRegistry) -> None:
    """A child of a nested index was deleted: the outer index is refused."""
    child = await push_image(registry, NAME, "child", [b"layer"])
    between = index_over(child)
    assert (await put(registry, digest_of(between), between, INDEX)).status == 201
    assert (await registry.call("DELETE", f"/v2/{NAME}/manifests/{digest_of(child)}")).status == 202
    answer = await put(registry, "outer", index_over(between, media_type=INDEX), INDEX)
    assert (answer.status, answer.codes) == (404, ["MANIFEST_BLOB_UNKNOWN"])


async def test_a_foreign_layer_of_a_child_need_not_be_there(registry: FakeRegistry) -> None:
    """An index may refer to Windows images without their foreign layers."""
    await registry.push_blob(NAME, b"{}")
    document = image(b"{}", [])
    document["layers"] = [descriptor(b"elsewhere", FOREIGN)]
    child = json.dumps(document).encode()
    assert (await put(registry, digest_of(child), child)).status == 201
    assert (await put(registry, "windows", index_over(child), INDEX)).status == 201


# ------------------------------------------------------------------ how many calls
def seed_images(registry: FakeRegistry, count: int) -> list[bytes]:
    """Seed so many manifests, each with its own layer and a shared config."""
    documents = []
    registry.bucket.seed(f"{NAME}/blobs/{digest_of(b'{}')}", b"{}", NO_ATTRIBUTES, None)
    for number in range(count):
        layer = str(number).encode()
        registry.bucket.seed(f"{NAME}/blobs/{digest_of(layer)}", layer, NO_ATTRIBUTES, None)
        document = json.dumps(image(b"{}", [layer])).encode()
        packed = pack(references_of(parse_manifest(document, MANIFEST)))
        assert packed is not None
        attributes = Attributes(MANIFEST, {"hasSubject": "false", "references": packed})
        registry.bucket.seed(f"{NAME}/manifests/{digest_of(document)}", document, attributes, None)
        documents.append(document)
    return documents


async def calls_of(registry: FakeRegistry, reference: str, document: bytes, media_type: str, status: int) -> int:
    """Return the R2 calls of a push."""
    registry.bucket.reset()
    answer = await put(registry, reference, document, media_type)
    assert answer.status == status, answer
    usage = registry.bucket.usage
    return usage.class_a + usage.class_b + usage.free


@pytest.mark.parametrize(("others", "limit"), [(0, 25), (5_000, 80)])
async def test_an_index_of_a_thousand_children(registry: FakeRegistry, others: int, limit: int) -> None:
    """Listings find the children and their layers."""
    documents = seed_images(registry, 1_000 + others)
    assert await calls_of(registry, "index", index_over(*documents[:1_000]), INDEX, 201) <= limit


async def test_many_layers_among_very_many_blobs(registry: FakeRegistry) -> None:
    """Single lookups find the layers, because a page of the listing would have only one of them."""
    for number in range(100_000):
        registry.bucket.seed(f"{NAME}/blobs/{digest_of(str(number).encode())}", b"1", NO_ATTRIBUTES, None)
    layers = [str(number).encode() for number in range(127)]
    document = image(b"0", [])
    document["layers"] = [descriptor(layer, LAYER) | {"size": 1} for layer in layers]
    assert await calls_of(registry, "1", json.dumps(document).encode(), MANIFEST, 201) <= 140


@pytest.mark.parametrize("others", [0, 3_000])
async def test_five_thousand_absent_children(registry: FakeRegistry, others: int) -> None:
    """Refused after the first lookup that misses some, with their count and the first few digests."""
    seed_images(registry, others)
    absent = [f"absent {number}".encode() for number in range(5_000)]
    assert await calls_of(registry, "index", index_over(*absent), INDEX, 404) <= 10
    answer = await put(registry, "index", index_over(*absent), INDEX)
    errors = json.loads(answer.body)["errors"]
    assert 0 < len(errors) <= 20
    assert {error["detail"]["digest"] for error in errors} <= {digest_of(one) for one in absent}
    count = re.search(r"at least (\d+)", errors[0]["message"])
    assert count is not None
    assert int(count.group(1)) >= len(errors)


async def test_more_than_a_request_can_look_for() -> None:
    """The answer is a 4xx with advice, not a 5xx that the client retries."""
    registry = FakeRegistry(settings=read_settings({**VARIABLES, "R2_CALLS": "100"}.get))
    layers = [str(number).encode() for number in range(127)]
    for data in layers:
        registry.bucket.seed(f"{NAME}/blobs/{digest_of(data)}", data, NO_ATTRIBUTES, None)
    registry.bucket.page_with_metadata = 1
    answer = await put(registry, "1", json.dumps(image(layers[0], layers[1:])).encode())
    assert (answer.status, answer.codes) == (400, ["MANIFEST_INVALID"])
    assert "R2_CALLS is 100: set R2_CALLS to" in json.loads(answer.body)["errors"][0]["message"]
