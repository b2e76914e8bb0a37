"""Garbage collection over HTTP: what is deleted, what stays, and the number of R2 calls."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.content import gc_register
from registry.ports.storage import NO_ATTRIBUTES, Attributes, StorageError
from registry.spec.endpoints import Mode
from registry.spec.errors import RegistryError
from registry.spec.manifest_format import parse_manifest
from registry.spec.manifest_references import MAX_LENGTH, SHORT, cuts, pack, references_of, short, unpack
from registry.spec.names import RepositoryName
from registry.storage.calls import Calls
from registry.upkeep import collection
from registry.upkeep.collection import Collector
from registry.upkeep.garbage import MAX_SHOWN, DigestIndex, Rules
from registry.uploads.parts import SMALL_PART
from tests.fakes.client import Answer, FakeRegistry, digest_of
from tests.images import INDEX, MANIFEST, descriptor, image, push_image, put_manifest
from tests.invariants import check_links
from tests.unit.uploads.test_uploads import bytes_of

NAME = "team/app"
LARGE = bytes_of(SMALL_PART + 5)
DAY = 24 * 3600


async def collect(registry: FakeRegistry, query: str = "", name: str = NAME, status: int = 200) -> dict[str, Any]:
    """Request a collection and return its answer."""
    answer = await registry.call("POST", f"/v2/{name}/gc?{query}", budget=registry.settings.r2_calls + 10)
    assert answer.status == status, answer
    value: dict[str, Any] = json.loads(answer.body)
    assert status != 200 or value["success"] is True
    check_links(registry)
    return value


async def get(registry: FakeRegistry, path: str, name: str = NAME) -> Answer:
    """Send a GET."""
    return await registry.call("GET", f"/v2/{name}/{path}")


async def is_there(registry: FakeRegistry, *layers: bytes) -> list[bool]:
    """Return which blobs can be pulled."""
    return [(await get(registry, f"blobs/{digest_of(one)}")).body == one for one in layers]


def refs(registry: FakeRegistry) -> list[str]:
    """Return the refs of the repository."""
    return [key for key in registry.bucket.keys("_refs/") if key.endswith(f"/{NAME}")]


# ------------------------------------------------------------------ unreferenced
async def test_blobs_that_nothing_refers_to(registry: FakeRegistry) -> None:
    """Deleted after the grace period. Blobs of a manifest stay, with and without a tag."""
    await push_image(registry, NAME, "1", [b"kept", LARGE])
    await registry.push_blob(NAME, b"orphan")
    await registry.push_blob(NAME, LARGE + b"!")
    assert (await collect(registry))["blobs"] == 0
    registry.clock.now += 3600
    await registry.push_blob(NAME, b"young")
    shown = await collect(registry, "dry_run=true")
    assert sorted(one["digest"] for one in shown["garbage"]["blobs"]) == sorted(
        [digest_of(b"orphan"), digest_of(LARGE + b"!")]
    )
    assert await is_there(registry, b"orphan", LARGE + b"!") == [True, True]
    done = await collect(registry)
    assert (done["success"], done["blobs"], done["bytes"]) == (True, 2, 6 + len(LARGE) + 1)
    assert await is_there(registry, b"kept", LARGE, b"young", b"orphan", LARGE + b"!") == [True] * 3 + [False] * 2
    assert len(refs(registry)) == 1
    assert (await collect(registry))["blobs"] == 0


async def test_delete_and_collect_at_once(registry: FakeRegistry) -> None:
    """With grace=0, nothing of a deleted image stays but its data objects, which the sweeper deletes."""
    manifest = await push_image(registry, NAME, "1", [b"layer", LARGE])
    await push_image(registry, "other", "1", [b"layer", LARGE])
    assert (await registry.call("DELETE", f"/v2/{NAME}/manifests/{digest_of(manifest)}")).status == 202
    done = await collect(registry, "grace=0")
    assert (done["blobs"], done["tombstones"]) == (3, 0)
    assert registry.bucket.keys(f"{NAME}/blobs/") == []
    assert refs(registry) == []
    registry.clock.now += 300  # an interrupted deletion may be retried for so long
    assert (await collect(registry, "grace=0"))["tombstones"] == 2
    assert registry.bucket.keys(f"{NAME}/") == [f"{NAME}/_gc"]
    assert (await get(registry, "manifests/1")).status == 404
    assert (await get(registry, f"blobs/{digest_of(LARGE)}", "other")).body == LARGE
    names = json.loads((await registry.call("GET", "/v2/_catalog")).body)["repositories"]
    assert names == ["other"]


async def test_other_repositories_are_left_alone(registry: FakeRegistry) -> None:
    """Also repositories with the same prefix, or with a name that ends like one of our folders."""
    others = [f"{NAME}/blobs", f"{NAME}/manifests", f"{NAME}/sub", f"{NAME}x", "team"]
    for name in (NAME, *others):
        await registry.push_blob(name, b"orphan")
    assert (await collect(registry, "grace=0"))["blobs"] == 1
    for name in others:
        assert (await get(registry, f"blobs/{digest_of(b'orphan')}", name)).status == 200


# ------------------------------------------------------------------ untagged
async def test_untagged_manifests(registry: FakeRegistry) -> None:
    """Deleted a day after the push, for any grace. Tagged manifests stay, with children and referrers."""
    children = [await push_image(registry, NAME, f"child-{number}", [bytes([number])]) for number in range(3)]
    entries = [descriptor(child, MANIFEST) for child in children[:2]]
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
    assert (await put_manifest(registry, NAME, "index", index, INDEX)).status == 201
    signature = await push_signature(registry, digest_of(children[0]))
    nested = await push_signature(registry, digest_of(signature))
    lost = await push_signature(registry, digest_of(children[2]))
    for number in range(3):
        assert (await registry.call("DELETE", f"/v2/{NAME}/manifests/child-{number}")).status == 202
    registry.clock.now += DAY - 100
    assert (await collect(registry, "mode=untagged&grace=0"))["manifests"] == 0
    registry.clock.now += 200
    assert (await collect(registry, "mode=unreferenced&grace=0"))["manifests"] == 0
    done = await collect(registry, "mode=untagged&grace=0")
    assert (done["manifests"], done["referrers"]) == (2, 1)
    for data, is_kept in ((children[0], True), (children[1], True), (signature, True), (nested, True), (index, True)):
        assert ((await get(registry, f"manifests/{digest_of(data)}")).status == 200) is is_kept
    for data in (children[2], lost):
        assert (await get(registry, f"manifests/{digest_of(data)}")).status == 404
    assert await is_there(registry, b"\0", b"\1", b"\2") == [True, True, False]
    assert json.loads((await get(registry, f"referrers/{digest_of(children[2])}")).body)["manifests"] == []
    assert len(json.loads((await get(registry, f"referrers/{digest_of(children[0])}")).body)["manifests"]) == 1


async def push_signature(registry: FakeRegistry, subject: str) -> bytes:
    """Push a manifest with a subject, by its digest only."""
    config = subject.encode()
    await registry.push_blob(NAME, config)
    document = image(config, [], subject={"mediaType": MANIFEST, "digest": subject, "size": 1})
    data = json.dumps(document).encode()
    assert (await put_manifest(registry, NAME, digest_of(data), data)).status == 201
    return data


async def test_a_tag_without_its_digest(registry: FakeRegistry) -> None:
    """serverless-registry could leave one: the tag alone protects the image."""
    manifest = await push_image(registry, NAME, "1", [b"layer"])
    del registry.bucket.objects[f"{NAME}/manifests/{digest_of(manifest)}"]
    registry.clock.now += 2 * DAY
    for mode in ("unreferenced", "untagged"):
        await collect(registry, f"mode={mode}&grace=0")
    assert await is_there(registry, b"layer") == [True]
    assert (await get(registry, "manifests/1")).body == manifest


async def test_manifests_that_only_their_bytes_explain(registry: FakeRegistry) -> None:
    """Manifests without references in their metadata are read."""
    manifest = await push_image(registry, NAME, "1", [b"layer"])
    for key in registry.bucket.keys(f"{NAME}/manifests/"):
        stored = registry.bucket.objects[key]
        registry.bucket.seed(key, manifest, type(NO_ATTRIBUTES)(MANIFEST), stored.checksum)
    registry.clock.now += 2 * DAY
    registry.bucket.reset()
    await registry.push_blob(NAME, b"orphan")
    assert (await collect(registry, "mode=untagged&grace=0"))["blobs"] == 1
    assert await is_there(registry, b"layer") == [True]


async def test_a_manifest_that_goes_and_comes_back(registry: FakeRegistry) -> None:
    """A manifest is deleted after the listing, and pushed again before the end: its layers stay."""
    layers = [bytes([number]) for number in range(110)]  # more than the metadata holds
    manifest = await push_image(registry, NAME, "1", layers)
    await registry.push_blob(NAME, b"orphan")
    registry.clock.now += DAY
    prefix = f"{NAME}/manifests/"
    saved = {key: registry.bucket.objects[key] for key in registry.bucket.keys(prefix)}
    left = [1]

    def disturb(call: str, key: str) -> None:
        if call == "get" and key in saved and left:
            left.clear()
            for gone in saved:
                del registry.bucket.objects[gone]
        elif call == "list" and key == f"{NAME}/blobs/":
            registry.bucket.objects.update(saved)

    registry.bucket.fail = disturb
    await collect(registry)
    registry.bucket.fail = lambda *_: None
    assert (await get(registry, "manifests/1")).body == manifest
    assert all(await is_there(registry, *layers))


async def test_a_manifest_that_cannot_be_read(registry: FakeRegistry) -> None:
    """409 that names the manifest, and nothing is deleted, because it may refer to any blob."""
    await registry.push_blob(NAME, b"orphan")
    registry.bucket.seed(f"{NAME}/manifests/odd", b"not JSON", NO_ATTRIBUTES, None)
    answer = await collect(registry, "grace=0", status=409)
    assert "manifest odd cannot be read" in answer["errors"][0]["message"]
    assert await is_there(registry, b"orphan") == [True]
    assert (await registry.call("DELETE", f"/v2/{NAME}/manifests/odd")).status == 202
    assert (await collect(registry, "grace=0"))["blobs"] == 1


# ------------------------------------------------------------------ large repositories
@pytest.mark.parametrize("with_metadata", [True, False])
@pytest.mark.parametrize("page", [100, 1000])
async def test_a_large_repository(registry: FakeRegistry, page: int, with_metadata: bool) -> None:
    """One request collects it all, in small batches, keeping the register from batch to batch."""
    registry.bucket.page_with_metadata = page
    await registry.push_blob(NAME, b"first")
    kept = seed_images(registry, 300, with_metadata)
    for number in range(5_000):
        registry.bucket.seed(f"{NAME}/blobs/{digest_of(f'orphan {number}'.encode())}", b"x", NO_ATTRIBUTES, None)
    registry.clock.now += DAY
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collection, "BATCH", 700)
        done = await collect(registry, "mode=untagged")
    assert (done["manifests_seen"], done["blobs"]) == (600, 5_001)
    assert set(registry.bucket.keys(f"{NAME}/blobs/")) == {f"{NAME}/blobs/{digest}" for digest in kept}


async def test_a_repository_that_does_not_fit(registry: FakeRegistry) -> None:
    """409 with a sufficient number of R2 calls; the register is released."""
    await registry.push_blob(NAME, b"first")
    seed_images(registry, 300)
    registry.bucket.page = registry.bucket.page_with_metadata = 5
    registry.clock.now += DAY
    calls = 100
    for _ in range(4):
        registry.settings = replace(registry.settings, r2_calls=calls)
        registry.restart()
        answer = await registry.call("POST", f"/v2/{NAME}/gc?grace=0", budget=calls + 10)
        if answer.status == 200:
            break
        assert (answer.status, answer.codes) == (409, ["UNSUPPORTED"])
        message = json.loads(answer.body)["errors"][0]["message"]
        assert f"R2_CALLS is {calls}: set R2_CALLS to " in message
        calls = int(message.split()[-1])
    assert json.loads(answer.body)["blobs"] == 1
    assert (await gc_register.read(registry.registry.platform, RepositoryName(NAME))).phase is gc_register.Phase.IDLE


async def test_what_a_dry_run_shows(registry: FakeRegistry) -> None:
    """The answer has all counts and the first names. Nothing is written."""
    await registry.push_blob(NAME, b"first")
    seed_images(registry, 3)
    for number in range(5_000):
        registry.bucket.seed(f"{NAME}/blobs/{digest_of(f'orphan {number}'.encode())}", b"x", NO_ATTRIBUTES, None)
    registry.clock.now += DAY
    before = registry.bucket.keys(NAME)
    shown = await collect(registry, "dry_run=true")
    assert (shown["blobs"], len(shown["garbage"]["blobs"])) == (5_001, MAX_SHOWN)
    assert registry.bucket.keys(NAME) == before


async def test_links_for_which_no_calls_are_left(registry: FakeRegistry) -> None:
    """The links are deleted; the sweeper deletes their refs later."""
    await registry.push_blob(NAME, b"first")
    for number in range(120):
        digest, data_id = digest_of(str(number).encode()), f"{number:032x}"
        link = type(NO_ATTRIBUTES)(None, {"target": data_id, "ref": "1" * 32, "size": "9000000", "digest": digest})
        registry.bucket.seed(f"{NAME}/blobs/{digest}", data_id.encode(), link, None)
        registry.bucket.seed(f"_refs/{data_id}/{'1' * 32}/{NAME}", b"", NO_ATTRIBUTES, None)
        registry.bucket.seed(f"_data/{data_id}", b"", NO_ATTRIBUTES, None)
    registry.settings = replace(registry.settings, r2_calls=100)
    registry.restart()
    done = await collect(registry, "grace=0")
    assert done["blobs"] == 121
    assert 0 < len(refs(registry)) < 60


def seed_images(registry: FakeRegistry, count: int, with_metadata: bool = True) -> set[str]:
    """Seed tagged images of four layers each; return the digests of their blobs."""
    kept = set()
    for number in range(count):
        layers = [f"{number} {layer}".encode() for layer in range(4)]
        data = json.dumps(image(b"{}", layers)).encode()
        packed = pack(references_of(parse_manifest(data, MANIFEST)))
        assert packed is not None
        metadata = {"hasSubject": "false", "references": packed} if with_metadata else {}
        for reference in (digest_of(data), f"tag-{number}"):
            registry.bucket.seed(f"{NAME}/manifests/{reference}", data, type(NO_ATTRIBUTES)(MANIFEST, metadata), None)
        for blob in (b"{}", *layers):
            kept.add(digest_of(blob))
            registry.bucket.seed(f"{NAME}/blobs/{digest_of(blob)}", blob, NO_ATTRIBUTES, None)
    return kept


# ------------------------------------------------------------------ deletions and the lease
class SlowlyFailing:
    """Deletions fail after so many seconds, the first `count` of them; keeps when they were sent."""

    def __init__(self, registry: FakeRegistry, seconds: float, count: int) -> None:
        self.sent: list[float] = []
        self._registry, self._seconds, self._left = registry, seconds, count

    def __call__(self, call: str, key: str) -> None:
        """`FakeR2.fail`."""
        if call == "delete" and key.startswith(NAME):
            self.sent.append(self._registry.clock.now)
            if self._left:
                self._left -= 1
                self._registry.clock.now += self._seconds
                raise StorageError("no answer")


async def orphans(registry: FakeRegistry, *data: bytes) -> Collector:
    """Seed blobs that nothing refers to; return a collector for them."""
    for one in data:
        await registry.push_blob(NAME, one)
    platform, name = registry.registry.platform, RepositoryName(NAME)
    return Collector(platform, collection.begin(platform, name, Rules(Mode.UNREFERENCED, 0)), Calls())


async def test_a_deletion_that_fails_slowly(registry: FakeRegistry) -> None:
    """The lease outlasts each attempt. Pushes wait until no attempt can take effect any more."""
    collector = await orphans(registry, b"one")
    registry.bucket.fail = failing = SlowlyFailing(registry, 95, 2)
    await collector.collect()
    platform, name = registry.registry.platform, RepositoryName(NAME)
    register = await gc_register.read(platform, name)
    assert register.phase is gc_register.Phase.SWEEP
    assert len(failing.sent) == 3
    assert register.lease - failing.sent[-1] > gc_register.MARGIN_SECONDS
    assert not gc_register.may_take_over(platform, register)


async def test_a_deletion_that_fails_past_its_lease(registry: FakeRegistry) -> None:
    """A push took the register over meanwhile: the collection sends no more deletions."""
    collector = await orphans(registry, b"one")
    failing = SlowlyFailing(registry, gc_register.LEASE_SECONDS + gc_register.MARGIN_SECONDS + 1, 2)
    platform, name = registry.registry.platform, RepositoryName(NAME)
    sleep = registry.clock.sleep

    async def push_while_it_waits(seconds: float) -> None:
        await sleep(seconds)
        if failing.sent:
            await gc_register.settle(platform, name, gc_register.Register())

    registry.bucket.fail = failing
    object.__setattr__(platform, "sleep", push_while_it_waits)
    with pytest.raises(RegistryError):
        await collector.collect()
    assert len(failing.sent) == 1


# ------------------------------------------------------------------ the request
async def test_serverless_registry_asks_so(registry: FakeRegistry) -> None:
    """The request and answer of serverless-registry."""
    await push_image(registry, NAME, "1", [b"layer"])
    for query in ("", "?mode=unreferenced", "?mode=untagged"):
        answer = await registry.call("POST", f"/v2/{NAME}/gc{query}")
        assert (answer.status, json.loads(answer.body)["success"]) == (200, True)


@pytest.mark.parametrize(
    ("method", "query", "status"),
    [
        ("POST", "mode=all", 400),
        ("POST", "grace=-1", 400),
        ("POST", "grace=soon", 400),
        ("POST", "dry_run=perhaps", 400),
        ("GET", "", 400),
        ("GET", "mode=untagged", 400),
        ("DELETE", "", 405),
    ],
)
async def test_what_makes_no_sense(registry: FakeRegistry, method: str, query: str, status: int) -> None:
    """An invalid parameter is an error with advice."""
    await registry.push_blob(NAME, b"x")
    answer = await registry.call(method, f"/v2/{NAME}/gc?{query}")
    assert answer.status == status
    assert answer.codes


async def test_who_may(registry: FakeRegistry) -> None:
    """A collection needs the permission to delete."""
    for method, path in (("POST", f"{NAME}/gc"), ("GET", f"{NAME}/gc?mode=verify"), ("GET", "_retention")):
        answer = await registry.call(method, f"/v2/{path}", user=("reader", "looks-only"))
        assert answer.status == 403
        assert (await registry.call(method, f"/v2/{path}", user=None)).status == 401
        assert (await registry.call(method, f"/v2/{path}")).status in (200, 409)


async def test_a_bucket_of_serverless_registry(registry: FakeRegistry) -> None:
    """409 until the bucket was migrated."""
    registry.bucket.seed("x/manifests/1", b"{}", NO_ATTRIBUTES, None)
    answer = await collect(registry, name="x", status=409)
    assert "_migrate" in answer["errors"][0]["message"]


def test_packed_references() -> None:
    """Packing is reversible. Too many references are not packed, so the manifest is read."""
    assert unpack(".", "").blobs == frozenset()
    for count in (0, 1, 50, 101):
        layers: Iterable[bytes] = (str(number).encode() for number in range(count))
        manifest = parse_manifest(json.dumps(image(b"{}", list(layers))).encode(), MANIFEST)
        references = references_of(manifest)
        packed = pack(references)
        assert packed is not None
        assert len(packed) <= MAX_LENGTH
        assert unpack(packed, "") == references
    many = parse_manifest(json.dumps(image(b"{}", [bytes([number]) for number in range(110)])).encode(), MANIFEST)
    assert pack(references_of(many)) is None
    assert len(short(digest_of(b""))) == SHORT
    assert sorted(cuts(references.blobs)) == sorted(int(one.digest.hex[:16], 16) for one in manifest.blobs)


@pytest.mark.parametrize("stored", ["text/html", "application/x-www-form-urlencoded", None])
async def test_types_that_are_no_longer_taken(registry: FakeRegistry, stored: str | None) -> None:
    """Manifests of types that are refused today still protect their blobs, and need not be deleted."""
    layers = [b"one", b"two"]
    for data in (b"{}", *layers):
        await registry.push_blob(NAME, data)
    document = json.dumps({**image(b"{}", layers), "mediaType": None, "Layers": []}).encode()
    await registry.bucket.put(f"{NAME}/manifests/old", document, Attributes(stored))
    registry.clock.now += 7200
    done = json.loads((await registry.call("POST", f"/v2/{NAME}/gc")).body)
    assert (done["success"], done["blobs"]) == (True, 0)
    report = json.loads((await registry.call("GET", f"/v2/{NAME}/gc?mode=verify")).body)
    assert report["problems"] == []


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1) | st.integers(0, 5), st.integers(0, 2**32 - 1))))
def test_an_index_of_digests(entries: list[tuple[int, int]]) -> None:
    """It behaves like a list of pairs, for any order of additions and lookups."""
    index = DigestIndex()
    for at, (cut, number) in enumerate(entries, 1):
        index.add(cut, number)
        assert sorted(index.find(cut)) == sorted(one for key, one in entries[:at] if key == cut)
    for cut in (0, 3, 2**63, 2**64 - 1):
        assert index.following(cut) == min((key for key, _ in entries if key >= cut), default=None)
    assert sorted(index) == sorted(entries)
