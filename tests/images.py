"""Makes and pushes manifests for tests."""

import json
from collections.abc import Sequence
from typing import Any

from tests.fakes.client import Answer, FakeRegistry, digest_of

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def descriptor(data: bytes, media_type: str) -> dict[str, Any]:
    """The descriptor of bytes."""
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def image(config: bytes, layers: Sequence[bytes], **fields: Any) -> dict[str, Any]:
    """An image manifest."""
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(config, CONFIG),
        "layers": [descriptor(layer, LAYER) for layer in layers],
        **fields,
    }


async def put_manifest(
    registry: FakeRegistry, name: str, reference: str, document: object, media_type: str | None = MANIFEST
) -> Answer:
    """PUT a manifest: bytes unchanged, any other document as JSON."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    headers = {} if media_type is None else {"Content-Type": media_type}
    return await registry.call("PUT", f"/v2/{name}/manifests/{reference}", body, headers=headers)


async def push_image(registry: FakeRegistry, name: str, reference: str, layers: Sequence[bytes]) -> bytes:
    """Push an image with its blobs; returns the manifest's bytes."""
    config = json.dumps({"layers": len(layers)}).encode()
    for blob in (config, *layers):
        await registry.push_blob(name, blob)
    manifest = json.dumps(image(config, layers)).encode()
    answer = await put_manifest(registry, name, reference, manifest)
    assert answer.status == 201, answer
    return manifest
