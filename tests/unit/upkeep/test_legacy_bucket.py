"""A bucket that cloudflare/serverless-registry wrote is served (fixtures/legacy-bucket.json)."""

import base64
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from registry.ports.storage import Attributes
from registry.spec.names import Digest
from registry.uploads.parts import SMALL_PART
from tests.fakes.client import FakeRegistry, digest_of
from tests.unit.uploads.test_uploads import bytes_of

OBJECTS: list[dict[str, Any]] = json.loads((Path(__file__).parents[2] / "fixtures/legacy-bucket.json").read_text())
MANIFESTS = [found for found in OBJECTS if "/manifests/" in found["key"]]
BLOBS = [found for found in OBJECTS if "/blobs/" in found["key"]]
LINKS = [found for found in BLOBS if found["custom_metadata"]]


@pytest.fixture
def legacy(registry: FakeRegistry) -> FakeRegistry:
    """Return a registry on a bucket of serverless-registry."""
    for found in OBJECTS:
        checksum = found["sha256_checksum"]
        attributes = Attributes(found["http_metadata"].get("contentType"), found["custom_metadata"])
        data = base64.b64decode(found["body_base64"])
        registry.bucket.seed(found["key"], data, attributes, Digest("sha256", checksum) if checksum else None)
    return registry


@pytest.mark.parametrize("found", MANIFESTS, ids=[found["key"] for found in MANIFESTS])
async def test_every_tag_and_digest_pulls(legacy: FakeRegistry, found: dict[str, Any]) -> None:
    """With media type, digest and size; and everything the manifest refers to, in the size that it states."""
    name, _, reference = found["key"].rpartition("/manifests/")
    got = await legacy.call("GET", f"/v2/{name}/manifests/{reference}")
    head = await legacy.call("HEAD", f"/v2/{name}/manifests/{reference}")
    assert got.status == head.status == 200
    assert got.body == base64.b64decode(found["body_base64"])
    for answer in (got, head):
        assert answer.headers["Docker-Content-Digest"] == digest_of(got.body)
        assert answer.headers["Content-Type"] == found["http_metadata"]["contentType"]
    document = json.loads(got.body)
    for descriptor in [document[key] for key in ("config",) if key in document] + document.get("layers", []):
        blob = await legacy.call("GET", f"/v2/{name}/blobs/{descriptor['digest']}")
        assert (digest_of(blob.body), len(blob.body)) == (descriptor["digest"], descriptor["size"])


@pytest.mark.parametrize("found", BLOBS, ids=[found["key"] for found in BLOBS])
async def test_every_blob_has_its_true_size(legacy: FakeRegistry, found: dict[str, Any]) -> None:
    """HEAD and GET agree, also for mounted blobs, whose link's size serverless-registry's HEAD returns."""
    name, _, digest = found["key"].rpartition("/blobs/")
    got = await legacy.call("GET", f"/v2/{name}/blobs/{digest}")
    head = await legacy.call("HEAD", f"/v2/{name}/blobs/{digest}")
    assert digest_of(got.body) == digest
    assert head.headers["Content-Length"] == got.headers["Content-Length"] == str(len(got.body))
    assert head.headers["Docker-Content-Digest"] == digest


async def test_the_bucket_has_what_this_file_is_for() -> None:
    """The fixture has links, and mounts of mounts."""
    assert len(LINKS) >= 3
    assert {found["key"].partition("/")[0] for found in LINKS} == {"mirror", "mirror2"}


async def test_a_manifest_may_name_a_mounted_blob(legacy: FakeRegistry) -> None:
    """A push may reuse layers that serverless-registry mounted, in their true size."""
    manifest = next(found for found in MANIFESTS if found["key"] == "mirror/app/manifests/1.1")
    answer = await legacy.call(
        "PUT",
        "/v2/mirror/app/manifests/again",
        base64.b64decode(manifest["body_base64"]),
        headers={"Content-Type": manifest["http_metadata"]["contentType"]},
    )
    assert answer.status == 201, answer


async def test_links_that_lead_nowhere(legacy: FakeRegistry) -> None:
    """Links that are dangling, circular, or have an invalid name: 404, and a push replaces them."""
    large = bytes_of(SMALL_PART)
    for data, (name, target) in itertools.product((b"x", large), (("a", "gone"), ("b", "b"), ("c", "../c"))):
        attributes = Attributes(metadata={"X-Serverless-Registry-Symlink": target})
        legacy.bucket.seed(f"{name}/blobs/{digest_of(data)}", b"link", attributes, None)
        for method in ("GET", "HEAD"):
            assert (await legacy.call(method, f"/v2/{name}/blobs/{digest_of(data)}")).status == 404
        await legacy.push_blob(name, data)
        assert (await legacy.call("GET", f"/v2/{name}/blobs/{digest_of(data)}")).body == data


@pytest.mark.parametrize("found", [found for found in MANIFESTS if ":" in found["key"]], ids=lambda found: found["key"])
async def test_a_manifest_is_deleted_with_the_tags_that_sr_wrote(legacy: FakeRegistry, found: dict[str, Any]) -> None:
    """All tags with its bytes go, and its referrers entry; blobs stay until the migration."""
    name, _, digest = found["key"].rpartition("/manifests/")
    of_name = [other for other in MANIFESTS if other["key"].startswith(f"{name}/manifests/")]
    assert (await legacy.call("DELETE", f"/v2/{name}/manifests/{digest}")).status == 202
    for other in of_name:
        answer = await legacy.call("GET", f"/v2/{other['key']}")
        assert answer.status == (404 if other["body_base64"] == found["body_base64"] else 200)
    assert not [key for key in legacy.bucket.keys(f"{name}/_referrers/") if key.endswith(f"/{digest}")]
    for blob in BLOBS:
        if blob["key"].startswith(f"{name}/blobs/"):
            assert (await legacy.call("DELETE", f"/v2/{blob['key']}")).status == 409
