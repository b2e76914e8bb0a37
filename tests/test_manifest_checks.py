"""What a pushed manifest refers to: looked for in few calls, named when it is not there, kept when it is."""

import json

from tests.fakes.client import FakeRegistry, digest_of
from tests.images import descriptor, image, put_manifest

NAME = "team/app"
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


async def collect(registry: FakeRegistry) -> None:
    """Everything that nothing refers to goes."""
    registry.clock.now += 48 * 3600
    answer = await registry.call("POST", f"/v2/{NAME}/gc?grace=0")
    assert json.loads(answer.body)["success"], answer


# ------------------------------------------------------------------ layers that may lie elsewhere
async def test_a_foreign_layer_that_was_pushed_is_kept(registry: FakeRegistry) -> None:
    """Windows images pushed with --allow-nondistributable-artifacts: the layer is referred to, so it stays."""
    for data in (b"{}", b"base layer"):
        await registry.push_blob(NAME, data)
    document = image(b"{}", [])
    document["layers"] = [descriptor(b"base layer", FOREIGN)]
    assert (await put_manifest(registry, NAME, "windows", document)).status == 201
    await collect(registry)
    assert (await registry.call("GET", f"/v2/{NAME}/blobs/{digest_of(b'base layer')}")).body == b"base layer"


async def test_a_foreign_layer_of_another_size(registry: FakeRegistry) -> None:
    """It need not be there; what is there has the size that the manifest says."""
    for data in (b"{}", b"base layer"):
        await registry.push_blob(NAME, data)
    document = image(b"{}", [])
    document["layers"] = [descriptor(b"base layer", FOREIGN) | {"size": 1}]
    answer = await put_manifest(registry, NAME, "windows", document)
    assert (answer.status, answer.codes) == (400, ["MANIFEST_INVALID"])
