"""Deletion of tags, manifests and blobs: end-9 and end-10."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from registry.content.manifest_deletion import CALLS
from registry.ports.storage import NO_ATTRIBUTES, StorageError
from registry.storage import keys
from registry.uploads.parts import SMALL_PART
from tests.fakes.client import Answer, FakeRegistry, digest_of
from tests.images import INDEX, descriptor, image, push_image, put_manifest
from tests.invariants import check_links
from tests.unit.uploads.test_uploads import bytes_of

NAME = "team/app"
SMALL, LARGE = b"a small blob", bytes_of(SMALL_PART + 5)


async def delete(registry: FakeRegistry, path: str) -> int:
    """Send DELETE and return its status. Repeat it while the manifest has more tags than one request deletes."""
    while True:
        answer = await registry.call("DELETE", f"/v2/{NAME}/{path}", budget=CALLS + 10)
        if answer.status != 503:
            assert answer.status in (202, 404, 409), answer
            return answer.status
        assert b"send the request again" in answer.body
        assert "Retry-After" in answer.headers


async def is_there(registry: FakeRegistry, reference: str) -> bool:
    """Whether a manifest can be pulled; GET and HEAD must agree."""
    statuses = {(await registry.call(method, f"/v2/{NAME}/manifests/{reference}")).status for method in ("GET", "HEAD")}
    assert len(statuses) == 1
    return statuses == {200}


async def tags(registry: FakeRegistry) -> list[str]:
    """List the tags."""
    answer = await registry.call("GET", f"/v2/{NAME}/tags/list")
    assert answer.status == 200
    return list(json.loads(answer.body)["tags"])


async def referrers(registry: FakeRegistry, subject: str) -> list[str]:
    """List the digests of the referrers."""
    answer = await registry.call("GET", f"/v2/{NAME}/referrers/{subject}")
    return [one["digest"] for one in json.loads(answer.body)["manifests"]]


# ------------------------------------------------------------------ tags and manifests
async def test_a_tag(registry: FakeRegistry) -> None:
    """Spec: "a GET to /v2/<name>/manifests/<tag> will return a 404". The manifest and its other tags stay."""
    digest = digest_of(await push_image(registry, NAME, "1", [b"layer"]))
    await push_image(registry, NAME, "2", [b"layer"])
    assert await delete(registry, "manifests/1") == 202
    assert not await is_there(registry, "1")
    assert await is_there(registry, "2")
    assert await is_there(registry, digest)
    assert await tags(registry) == ["2"]
    assert await delete(registry, "manifests/1") == 404


async def test_a_manifest_with_its_tags(registry: FakeRegistry) -> None:
    """Spec: "any tag pointing to that digest will return a 404". Other manifests and their tags stay."""
    digest = digest_of(await push_image(registry, NAME, "1", [b"layer"]))
    await push_image(registry, NAME, "also-1", [b"layer"])
    other = digest_of(await push_image(registry, NAME, "2", [b"other"]))
    assert await delete(registry, f"manifests/{digest}") == 202
    assert [await is_there(registry, reference) for reference in (digest, "1", "also-1")] == [False] * 3
    assert [await is_there(registry, reference) for reference in (other, "2")] == [True] * 2
    assert await tags(registry) == ["2"]
    assert await delete(registry, f"manifests/{digest}") == 404


async def test_what_is_not_there(registry: FakeRegistry) -> None:
    """404 with the right error code, in a known and in an unknown repository."""
    for path, code in (
        ("manifests/1", "MANIFEST_UNKNOWN"),
        (f"manifests/{digest_of(b'x')}", "MANIFEST_UNKNOWN"),
        (f"blobs/{digest_of(b'x')}", "BLOB_UNKNOWN"),
    ):
        answer = await registry.call("DELETE", f"/v2/{NAME}/{path}")
        assert (answer.status, answer.codes) == (404, [code])
        await push_image(registry, NAME, "other", [b"layer"])


async def test_pushed_again(registry: FakeRegistry) -> None:
    """A deleted manifest can be pushed again in the same second, by tag and by digest."""
    registry.pause = 0
    manifest = await push_image(registry, NAME, "1", [b"layer"])
    for _ in range(3):
        assert await delete(registry, f"manifests/{digest_of(manifest)}") == 202
        assert not await is_there(registry, "1")
        assert (await put_manifest(registry, NAME, "1", manifest)).status == 201
        assert await is_there(registry, "1")
        assert await is_there(registry, digest_of(manifest))
    assert await tags(registry) == ["1"]


async def test_a_tag_that_moved_stays(registry: FakeRegistry) -> None:
    """The deletion of a manifest deletes only the tags that still name it."""
    old = digest_of(await push_image(registry, NAME, "1", [b"old"]))
    await push_image(registry, NAME, "1", [b"new"])
    assert await delete(registry, f"manifests/{old}") == 202
    assert await is_there(registry, "1")


async def test_the_same_bytes_under_another_algorithm(registry: FakeRegistry) -> None:
    """Two digests of the same bytes are two manifests. A tag names the one with which it was pushed."""
    manifest = await push_image(registry, NAME, "by-256", [b"layer"])
    sha512 = digest_of(manifest, "sha512")
    assert (await put_manifest(registry, NAME, f"{sha512}?tag=by-512", manifest)).status == 201
    assert await delete(registry, f"manifests/{sha512}") == 202
    assert await tags(registry) == ["by-256"]
    assert await is_there(registry, digest_of(manifest))


async def tagged(registry: FakeRegistry, count: int) -> bytes:
    """Push a manifest with so many tags, and another manifest."""
    manifest = await push_image(registry, NAME, "1", [b"layer"])
    stored = registry.bucket.objects[f"{NAME}/manifests/1"]
    for number in range(2, count + 1):
        registry.bucket.seed(f"{NAME}/manifests/{number}", manifest, stored.attributes, stored.checksum)
    await push_image(registry, NAME, "other", [b"other"])
    return manifest


@pytest.mark.parametrize("count", [24, 300, 2_500])
async def test_any_number_of_tags(registry: FakeRegistry, count: int) -> None:
    """A request stays within its R2 calls: it answers 503 while tags are left, and a retry continues."""
    manifest = await tagged(registry, count)
    assert await delete(registry, f"manifests/{digest_of(manifest)}") == 202
    assert await tags(registry) == ["other"]
    assert await delete(registry, f"manifests/{digest_of(manifest)}") == 404


async def test_one_of_many_tags_moves_while_they_are_deleted(registry: FakeRegistry) -> None:
    """A tag that a push moves to another image stays, for any number of tags."""
    manifest = await tagged(registry, 100)
    other = registry.bucket.objects[f"{NAME}/manifests/other"]

    def move(call: str, key: str) -> None:
        if call == "put" and key == f"{NAME}/manifests/1":  # the first tombstone of a tag
            registry.clock.now += 1
            data, checksum = registry.bucket.data(f"{NAME}/manifests/other"), other.checksum
            registry.bucket.seed(f"{NAME}/manifests/99", data, other.attributes, checksum)

    registry.bucket.fail = move
    assert await delete(registry, f"manifests/{digest_of(manifest)}") == 202
    assert await tags(registry) == ["99", "other"]


async def test_many_deleted_tags_do_not_hide_the_rest(registry: FakeRegistry) -> None:
    """A page of tags ends when the request's R2 calls run out, and its Link leads on."""
    for number in range(1_500):
        registry.bucket.seed(f"{NAME}/manifests/a{number:05}", b"", NO_ATTRIBUTES, None)
    await push_image(registry, NAME, "b", [b"layer"])
    registry.bucket.page = 10
    registry.settings = replace(registry.settings, r2_calls=100)
    registry.restart()
    answer = await registry.call("GET", f"/v2/{NAME}/tags/list?n=1", budget=100)
    assert json.loads(answer.body)["tags"] == []
    link = answer.headers["Link"]
    answer = await registry.call("GET", link[1 : link.index(">")], budget=100)
    assert json.loads(answer.body)["tags"] == ["b"]


async def test_referrers_disappear(registry: FakeRegistry) -> None:
    """A deleted manifest leaves its subject's list, also if serverless-registry stored it without a list."""
    subject = digest_of(await push_image(registry, NAME, "1", [b"layer"]))
    signature = json.dumps(
        image(b'{"layers": 1}', [b"layer"], subject={"mediaType": "a/b", "digest": subject, "size": 2})
    ).encode()
    for is_known in (True, False):
        assert (await put_manifest(registry, NAME, digest_of(signature), signature)).status == 201
        assert await referrers(registry, subject) == [digest_of(signature)]
        if not is_known:
            stored = registry.bucket.objects[f"{NAME}/manifests/{digest_of(signature)}"]
            key = f"{NAME}/manifests/{digest_of(signature)}"
            registry.bucket.seed(key, signature, NO_ATTRIBUTES, stored.checksum)
        assert await delete(registry, f"manifests/{digest_of(signature)}") == 202
        assert await referrers(registry, subject) == []
    assert await is_there(registry, "1")


async def test_a_deleted_child_is_missing(registry: FakeRegistry) -> None:
    """An index that refers to a deleted manifest is refused."""
    child = await push_image(registry, NAME, "1", [b"layer"])
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [descriptor(child, "application/vnd.oci.image.manifest.v1+json")],
    }
    assert (await put_manifest(registry, NAME, "index", index, INDEX)).status == 201
    assert await delete(registry, f"manifests/{digest_of(child)}") == 202
    answer = await put_manifest(registry, NAME, "index", index, INDEX)
    assert (answer.status, answer.codes) == (404, ["MANIFEST_BLOB_UNKNOWN"])


async def test_what_broke_off_is_ended(registry: FakeRegistry) -> None:
    """R2 fails at any call: the client gets an error, and a retry completes the deletion and nothing else."""
    for failing in range(1, 40):
        registry = FakeRegistry()
        subject = digest_of(await push_image(registry, NAME, "stays", [b"stays"]))
        signature = json.dumps(
            image(b'{"layers": 1}', [b"stays"], subject={"mediaType": "a/b", "digest": subject, "size": 2})
        ).encode()
        for tag in ("1", "2", "3"):
            assert (await put_manifest(registry, NAME, tag, signature)).status == 201
        calls = 0

        def fail(call: str, key: str, failing: int = failing) -> None:
            nonlocal calls
            calls += 1
            # All attempts of one call fail.
            if failing <= calls < failing + 3:
                raise StorageError("internal error (10001)")

        no_fault, registry.bucket.fail = registry.bucket.fail, fail
        answer = await registry.call("DELETE", f"/v2/{NAME}/manifests/{digest_of(signature)}")
        registry.bucket.fail = no_fault
        assert answer.status in (202, 503)
        again = await delete(registry, f"manifests/{digest_of(signature)}")
        assert again in (202, 404)
        assert await tags(registry) == ["stays"]
        assert await referrers(registry, subject) == []
        assert not await is_there(registry, digest_of(signature))
        if calls < failing:
            return
    pytest.fail("more calls than were looked at")


# ------------------------------------------------------------------ beside a push
@pytest.mark.parametrize("seed", range(150))
async def test_deletion_meets_a_push_of_the_same_image(seed: int) -> None:
    """The push or the deletion wins as a whole: tag and manifest both exist, or neither does."""
    registry = FakeRegistry()
    manifest = await push_image(registry, NAME, "old", [b"layer"])
    digest = digest_of(manifest)
    tag = "old" if seed % 2 else "new"
    deleted, pushed = await registry.at_once(
        seed,
        registry.call("DELETE", f"/v2/{NAME}/manifests/{digest}"),
        put_manifest(registry, NAME, tag, manifest),
    )
    assert (deleted.status, pushed.status) == (202, 201)
    assert await is_there(registry, tag) == await is_there(registry, digest)
    if tag == "new":
        assert not await is_there(registry, "old")


@pytest.mark.parametrize("seed", range(150))
async def test_deletion_meets_a_tag_that_moves_away(seed: int) -> None:
    """A concurrent push of another image to the tag was acknowledged: the tag stays."""
    registry = FakeRegistry()
    old = await push_image(registry, NAME, "1", [b"old"])
    new = await push_image(registry, NAME, "other", [b"new"])
    deleted, pushed = await registry.at_once(
        seed,
        registry.call("DELETE", f"/v2/{NAME}/manifests/{digest_of(old)}"),
        put_manifest(registry, NAME, "1", new),
    )
    assert (deleted.status, pushed.status) == (202, 201)
    answer = await registry.call("GET", f"/v2/{NAME}/manifests/1")
    assert (answer.status, answer.body) == (200, new)


@pytest.mark.parametrize("seed", range(100))
async def test_deletion_meets_a_push_of_the_same_referrer(seed: int) -> None:
    """The referrer is listed if and only if it exists."""
    registry = FakeRegistry()
    subject = digest_of(await push_image(registry, NAME, "1", [b"layer"]))
    signature = json.dumps(
        image(b'{"layers": 1}', [b"layer"], subject={"mediaType": "a/b", "digest": subject, "size": 2})
    ).encode()
    assert (await put_manifest(registry, NAME, "sig", signature)).status == 201
    await registry.at_once(
        seed,
        registry.call("DELETE", f"/v2/{NAME}/manifests/{digest_of(signature)}"),
        put_manifest(registry, NAME, "sig", signature),
    )
    expected = [digest_of(signature)] if await is_there(registry, digest_of(signature)) else []
    assert await referrers(registry, subject) == expected


# ------------------------------------------------------------------ blobs
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
async def test_a_blob(registry: FakeRegistry, data: bytes) -> None:
    """202, then 404. Other repositories keep the blob, whichever had it first."""
    for other in ("a/first", "z/mounted"):
        await registry.push_blob(NAME, data)
        mounted = await registry.call("POST", f"/v2/{other}/blobs/uploads/?mount={digest_of(data)}&from={NAME}")
        assert mounted.status == 201
        assert await delete(registry, f"blobs/{digest_of(data)}") == 202
        assert (await registry.call("GET", f"/v2/{NAME}/blobs/{digest_of(data)}")).status == 404
        assert await delete(registry, f"blobs/{digest_of(data)}") == 404
        answer = await registry.call("GET", f"/v2/{other}/blobs/{digest_of(data)}")
        assert (answer.status, answer.body) == (200, data)
        check_links(registry)
    assert len(registry.bucket.keys("_refs/")) == 2 * (data == LARGE)


async def test_a_blob_of_a_bucket_that_is_not_migrated(registry: FakeRegistry) -> None:
    """409 with advice, while links of serverless-registry may lead to the blob."""
    await registry.push_blob(NAME, SMALL)
    await registry.bucket.delete([keys.FORMAT])
    answer = await registry.call("DELETE", f"/v2/{NAME}/blobs/{digest_of(SMALL)}")
    assert (answer.status, answer.codes) == (409, ["UNSUPPORTED"])
    assert b"_migrate" in answer.body
    assert json.loads((await registry.call("POST", "/v2/_migrate")).body)["done"]
    assert await delete(registry, f"blobs/{digest_of(SMALL)}") == 202


@pytest.mark.parametrize("seed", range(60))
async def test_blob_deletion_meets_pushes_and_mounts(seed: int) -> None:
    """Afterwards, every blob that exists is complete, and no link lacks its ref."""
    registry = FakeRegistry()
    await registry.push_blob(NAME, LARGE)
    url = f"/v2/{NAME}/blobs/{digest_of(LARGE)}"
    requests: list[Callable[[], Awaitable[Answer]]] = [
        lambda: registry.call("DELETE", url),
        lambda: registry.call("POST", f"/v2/{NAME}/blobs/uploads/?digest={digest_of(LARGE)}", LARGE),
        lambda: registry.call("POST", f"/v2/other/blobs/uploads/?mount={digest_of(LARGE)}&from={NAME}"),
        lambda: registry.call("DELETE", url),
    ]
    answers = await registry.at_once(seed, *(request() for request in requests))
    assert {answer.status for answer in answers} <= {201, 202, 404, 429}, answers
    check_links(registry)
    for name in (NAME, "other"):
        answer = await registry.call("GET", f"/v2/{name}/blobs/{digest_of(LARGE)}")
        assert answer.status == 404 or answer.body == LARGE
    if answers[2].status == 201:
        assert answer.status == 200, "nobody deleted what was mounted"


@pytest.mark.parametrize("first", ["blob", "manifest"])
async def test_a_new_bucket_needs_no_migration(registry: FakeRegistry, first: str) -> None:
    """That holds for any first write, also one without an upload session."""
    if first == "blob":
        await registry.call("POST", f"/v2/{NAME}/blobs/uploads/?digest={digest_of(SMALL)}", SMALL)
    else:
        await put_manifest(registry, NAME, "1", {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}, INDEX)
        await registry.push_blob(NAME, SMALL)
    assert await delete(registry, f"blobs/{digest_of(SMALL)}") == 202


async def test_what_was_deleted_is_no_problem_of_the_migration(registry: FakeRegistry) -> None:
    """The migration does not report a tombstone as a damaged manifest."""
    manifest = await push_image(registry, NAME, "1", [b"layer"])
    assert await delete(registry, f"manifests/{digest_of(manifest)}") == 202
    await registry.bucket.delete([keys.FORMAT])
    migrated = json.loads((await registry.call("POST", "/v2/_migrate")).body)
    assert (migrated["done"], migrated["problems"]) == (True, [])
