"""Cross-repository mounts: end-11."""

import pytest

from registry.access.callers import Caller
from registry.access.permissions import allow
from registry.ports.storage import Attributes
from registry.spec.endpoints import Access, MountBlob, StartUpload
from registry.spec.names import RepositoryName, parse_digest
from registry.uploads.parts import SMALL_PART
from tests.fakes.client import Answer, FakeRegistry, digest_of, with_query
from tests.unit.uploads.test_uploads import bytes_of, check_blob

SMALL, LARGE = b"a small blob", bytes_of(SMALL_PART + 5)


async def mount(registry: FakeRegistry, digest: str, source: str | None, target: str = "target") -> Answer:
    """Request the mount of a blob of another repository."""
    query = f"?mount={digest}" + (f"&from={source}" if source else "")
    return await registry.call("POST", f"/v2/{target}/blobs/uploads/{query}")


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
async def test_mount(registry: FakeRegistry, data: bytes) -> None:
    """201 with the blob's location and true size. A large blob is stored once, with two refs."""
    await registry.push_blob("source", data)
    answer = await mount(registry, digest_of(data), "source")
    assert (answer.status, answer.location) == (201, f"/v2/target/blobs/{digest_of(data)}")
    await check_blob(registry, data, "target")
    assert len(registry.bucket.keys("_data/")) == (data == LARGE)
    assert len(registry.bucket.keys("_refs/")) == 2 * (data == LARGE)
    assert (await mount(registry, digest_of(data), "source")).status == 201
    assert len(registry.bucket.keys("_refs/")) == 2 * (data == LARGE)


async def test_mount_of_a_mount(registry: FakeRegistry) -> None:
    """Both links lead directly to the data object."""
    await registry.push_blob("source", LARGE)
    await mount(registry, digest_of(LARGE), "source", "second")
    await registry.bucket.delete([f"source/blobs/{digest_of(LARGE)}"])
    assert (await mount(registry, digest_of(LARGE), "second", "third")).status == 201
    await check_blob(registry, LARGE, "third")


async def test_what_cannot_be_mounted_is_uploaded(registry: FakeRegistry) -> None:
    """202 with a session: no `from`, no such blob in the source, or a data object that is being deleted."""
    await registry.push_blob("source", LARGE)
    (data_key,) = registry.bucket.keys("_data/")
    for source in (None, "elsewhere", "target"):
        answer = await mount(registry, digest_of(LARGE), source)
        assert answer.status == 202
        assert (await registry.call("GET", answer.location)).status == 204
    registry.bucket.seed(f"_refs/{data_key.removeprefix('_data/')}/!condemned", b"", Attributes(), None)
    before = registry.bucket.keys()
    assert (await mount(registry, digest_of(LARGE), "source")).status == 202
    assert registry.bucket.keys() == before, "the ref was taken back"


async def test_a_damaged_blob_is_not_spread(registry: FakeRegistry) -> None:
    """A mount verifies the bytes that it copies."""
    await registry.push_blob("source", SMALL)
    registry.bucket.seed(f"source/blobs/{digest_of(SMALL)}", b"other bytes!", Attributes(), None)
    assert (await mount(registry, digest_of(SMALL), "source")).status == 202
    assert (await registry.call("HEAD", f"/v2/target/blobs/{digest_of(SMALL)}")).status == 404


def test_mount_needs_pull_from_the_source(registry: FakeRegistry) -> None:
    """Without permission to pull from the source, 202 like for a missing blob: the answer reveals nothing."""
    endpoint = MountBlob(RepositoryName("a"), parse_digest(digest_of(b"")), RepositoryName("b"))
    admit = registry.registry.authorizer.admit
    pusher, both = allow({Access.PUSH}, "a"), allow({Access.PUSH}, "a") | allow({Access.PULL}, "b")
    assert admit(Caller("pusher", pusher), endpoint) == StartUpload(endpoint.name)
    assert admit(Caller("both", both), endpoint) == endpoint


async def test_chunk_lengths_are_told(registry: FakeRegistry) -> None:
    """OCI-Chunk-Min-Length and -Max-Length are multiples of a part, below Cloudflare's limit of 100 MB."""
    answer = await registry.call("POST", "/v2/a/blobs/uploads/")
    low, high = (int(answer.headers[f"OCI-Chunk-{end}-Length"]) for end in ("Min", "Max"))
    assert low == SMALL_PART
    assert low < high < 100_000_000
    assert high % SMALL_PART == 0


@pytest.mark.parametrize(
    "query",
    ["mount={}&from=", "mount={}&from=Upper/Case", "mount={}&from=host:5000/a", "mount=&from=a", "mount=md5:00&from=a"],
)
async def test_a_mount_that_cannot_be(registry: FakeRegistry, query: str) -> None:
    """An impossible mount starts an ordinary upload (end-11: SHOULD)."""
    answer = await registry.call("POST", f"/v2/b/blobs/uploads/?{query.format(digest_of(b'x'))}")
    assert answer.status == 202
    assert (await registry.call("PUT", with_query(answer.location, digest=digest_of(b"x")), b"x")).status == 201
