"""Verification of a repository over HTTP."""

import json
from dataclasses import replace
from typing import Any

import pytest

from registry.content.blobs import LARGE_BLOB
from registry.ports.storage import NO_ATTRIBUTES, Attributes
from registry.spec.names import parse_digest
from tests.fakes.client import FakeRegistry, digest_of
from tests.images import INDEX, MANIFEST, descriptor, image, push_image, put_manifest
from tests.unit.uploads.test_uploads import bytes_of

NAME = "team/app"
LARGE = bytes_of(LARGE_BLOB + 3)


async def verify(registry: FakeRegistry, name: str = NAME) -> dict[str, Any]:
    """Request a verification and return its answer."""
    answer = await registry.call("GET", f"/v2/{name}/gc?mode=verify", budget=registry.settings.r2_calls)
    assert answer.status == 200, answer
    found: dict[str, Any] = json.loads(answer.body)
    return found


async def test_verification(registry: FakeRegistry) -> None:
    """A complete repository has no problems. Each kind of damage is reported with its manifest."""
    manifest = await push_image(registry, NAME, "1", [LARGE, b"small"])
    assert await verify(registry) == {"manifests": 2, "blobs": 3, "problems": [], "unread": 0}
    link = registry.bucket.objects[f"{NAME}/blobs/{digest_of(LARGE)}"]
    target = f"_data/{link.attributes.metadata['target']}"
    data = registry.bucket.objects.pop(target)
    (problem,) = (await verify(registry))["problems"]
    assert problem == {"manifest": digest_of(manifest), "problem": f"blob {digest_of(LARGE)} is missing"}
    registry.bucket.seed(target, b"shorter", NO_ATTRIBUTES, None)
    assert (await verify(registry))["problems"] == [problem]
    registry.bucket.objects[target] = data
    registry.bucket.seed(f"{NAME}/blobs/{digest_of(b'small')}", b"smaller", NO_ATTRIBUTES, None)
    (problem,) = (await verify(registry))["problems"]
    assert problem["problem"] == f"blob {digest_of(b'small')} has 7 bytes, and the manifest says 5"
    registry.bucket.seed(f"{NAME}/blobs/{digest_of(b'small')}", b"small", NO_ATTRIBUTES, None)
    assert (await verify(registry))["problems"] == []
    registry.bucket.seed(f"{NAME}/manifests/{digest_of(manifest)}", manifest + b" ", Attributes("a/b"), None)
    (problem,) = (await verify(registry))["problems"]
    assert problem["manifest"] == digest_of(manifest)


async def test_children_and_tags(registry: FakeRegistry) -> None:
    """A missing child, a tag without its digest and blob, an invalid manifest, and foreign keys."""
    child = await push_image(registry, NAME, "child", [b"layer"])
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(child, MANIFEST)]}).encode()
    assert (await put_manifest(registry, NAME, "index", index, INDEX)).status == 201
    for key in ("sha256:abc", "x/y", "-", "nested/blobs/x"):
        registry.bucket.seed(f"{NAME}/manifests/{key}", b"odd", NO_ATTRIBUTES, None)
    assert (await verify(registry))["problems"] == []
    del registry.bucket.objects[f"{NAME}/manifests/{digest_of(child)}"]
    problems = (await verify(registry))["problems"]
    assert problems == [{"manifest": digest_of(index), "problem": f"manifest {digest_of(child)} is missing"}]
    del registry.bucket.objects[f"{NAME}/blobs/{digest_of(b'layer')}"]
    problems = (await verify(registry))["problems"]
    assert {"manifest": "child", "problem": f"blob {digest_of(b'layer')} is missing"} in problems
    registry.bucket.seed(f"{NAME}/manifests/child", b"none", NO_ATTRIBUTES, None)
    assert {one["manifest"] for one in (await verify(registry))["problems"]} == {digest_of(index), "child"}


@pytest.mark.parametrize("page", [10, 1000])
async def test_any_number_of_layers(registry: FakeRegistry, page: int) -> None:
    """Small blobs, links, and more layers than the metadata of a manifest has room for."""
    registry.bucket.page = registry.bucket.page_with_metadata = page
    layers = [bytes([number, 1]) for number in range(150)]
    for layer in (b"{}", *layers):
        registry.bucket.seed(f"{NAME}/blobs/{digest_of(layer)}", layer, NO_ATTRIBUTES, parse_digest(digest_of(layer)))
    await registry.push_blob(NAME, LARGE)
    for tag, some in (("wide", layers), ("narrow", layers[:60]), ("large", [LARGE])):
        answer = await registry.call(
            "PUT", f"/v2/{NAME}/manifests/{tag}", json.dumps(image(b"{}", some)).encode(), budget=500
        )
        assert answer.status == 201, answer
    assert await verify(registry) == {"manifests": 6, "blobs": 152, "problems": [], "unread": 0}
    del registry.bucket.objects[f"{NAME}/blobs/{digest_of(layers[3])}"]
    problems = (await verify(registry))["problems"]
    assert {one["problem"] for one in problems} == {f"blob {digest_of(layers[3])} is missing"}
    assert len(problems) == 2


async def test_what_does_not_fit(registry: FakeRegistry) -> None:
    """409 with the needed number of R2 calls, not a partial answer."""
    registry.bucket.page = registry.bucket.page_with_metadata = 1
    for number in range(500):
        layer = str(number).encode()
        registry.bucket.seed(f"{NAME}/blobs/{digest_of(layer)}", layer, NO_ATTRIBUTES, parse_digest(digest_of(layer)))
    registry.settings = replace(registry.settings, r2_calls=100)
    registry.restart()
    answer = await registry.call("GET", f"/v2/{NAME}/gc?mode=verify", budget=100)
    assert answer.status == 409
    message = json.loads(answer.body)["errors"][0]["message"]
    assert 500 <= int(message.split()[-1]) <= 1_000
