"""Typical client flows on the fake registry, with budgets of R2 calls (`make ops`, tests/unit/test_budgets.py)."""

import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from registry.ports.storage import NO_ATTRIBUTES, Attributes
from registry.settings import read_settings
from registry.spec.manifest_format import parse_manifest
from registry.spec.manifest_references import pack, references_of
from registry.spec.names import parse_digest
from registry.upkeep.cron import Upkeep
from tests import heap
from tests.fakes.client import VARIABLES, FakeRegistry, digest_of, with_query
from tests.fakes.many_images import ManyImages
from tests.fakes.upstream import UPSTREAM, FakeUpstream
from tests.images import MANIFEST, descriptor, image, put_manifest

KIB, MIB = 1024, 1024 * 1024
NAME = "team/app"
SUBJECT = descriptor(b"subject", MANIFEST)
LAYERS = (KIB, MIB, 6 * MIB, 24 * MIB, 64 * MIB)  # bytes


def bytes_of(size: int) -> bytes:
    """Pseudorandom bytes, always the same for one size."""
    return random.Random(size).randbytes(size)


def in_pieces(data: bytes) -> list[bytes]:
    """The pieces of a body without a Content-Length, as dockerd sends it."""
    return [data[at : at + 512 * KIB] for at in range(0, len(data), 512 * KIB)]


async def nothing(registry: FakeRegistry) -> None:
    """Warm up the isolate, so that it knows its signing key."""
    await registry.call("POST", f"/v2/{NAME}/blobs/uploads/")


async def start(registry: FakeRegistry, name: str = NAME) -> str:
    """Start an upload session; returns its location."""
    started = await registry.call("POST", f"/v2/{name}/blobs/uploads/")
    assert started.status == 202, started
    return started.location


async def push_chunks(registry: FakeRegistry, data: bytes, chunks: int = 1, *, known: bool = False) -> None:
    """Push a blob with POST, `chunks` PATCHes and PUT; `known` means with a Content-Length."""
    location = await start(registry)
    size = -(-len(data) // chunks)
    for at in range(0, len(data), size):
        chunk = data[at : at + size]
        answer = await registry.call("PATCH", location, chunk if known else in_pieces(chunk))
        assert answer.status == 202, answer
        location = answer.location
    closed = await registry.call("PUT", with_query(location, digest=digest_of(data)))
    assert closed.status == 201, closed


async def docker_push(registry: FakeRegistry, name: str = NAME, mount_from: str | None = None) -> None:
    """Push an image of five layers as dockerd does: HEAD, POST (a mount if it knows a source), PATCH, PUT, HEAD."""
    config = b'{"architecture": "amd64"}'
    layers = [bytes_of(size) for size in LAYERS]
    for data in (*layers, config):
        url = f"/v2/{name}/blobs/{digest_of(data)}"
        if (await registry.call("HEAD", url)).status == 200:
            continue
        query = f"?mount={digest_of(data)}&from={mount_from}" if mount_from and data != config else ""
        started = await registry.call("POST", f"/v2/{name}/blobs/uploads/{query}")
        if started.status == 202:
            chunk = await registry.call("PATCH", started.location, in_pieces(data))
            assert (await registry.call("PUT", with_query(chunk.location, digest=digest_of(data)))).status == 201
        assert (await registry.call("HEAD", url)).status == 200
    assert (await put_manifest(registry, name, "1.0", image(config, layers))).status == 201


async def skopeo_push(registry: FakeRegistry, name: str = NAME, mount_from: str | None = None) -> None:
    """Push the same image as skopeo 1.9 does, according to a recording of its requests.

    For each layer: HEAD; HEAD in the repository to mount from or, without one, HEAD again; then a mount, or POST,
    PATCH with a Content-Length and PUT. The config gets one HEAD and is always uploaded.
    """
    config = b'{"architecture": "amd64"}'
    layers = [bytes_of(size) for size in LAYERS]
    for data in (*layers, config):
        if (await registry.call("HEAD", f"/v2/{name}/blobs/{digest_of(data)}")).status == 200:
            continue
        if data != config:
            await registry.call("HEAD", f"/v2/{mount_from or name}/blobs/{digest_of(data)}")
            if mount_from is not None:
                query = f"mount={digest_of(data)}&from={mount_from}"
                assert (await registry.call("POST", f"/v2/{name}/blobs/uploads/?{query}")).status == 201
                continue
        chunk = await registry.call("PATCH", await start(registry, name), data)
        assert (await registry.call("PUT", with_query(chunk.location, digest=digest_of(data)))).status == 201
    assert (await put_manifest(registry, name, "1.0", image(config, layers))).status == 201


async def pull(registry: FakeRegistry) -> None:
    """Pull the image as a client does: the manifest by tag, then its blobs."""
    manifest = await registry.call("GET", f"/v2/{NAME}/manifests/1.0")
    document = json.loads(manifest.body)
    for one in (document["config"], *document["layers"]):
        blob = await registry.call("GET", f"/v2/{NAME}/blobs/{one['digest']}")
        assert digest_of(blob.body) == one["digest"]


async def mount(registry: FakeRegistry, size: int) -> None:
    """Mount a blob of NAME in another repository."""
    answer = await registry.call("POST", f"/v2/other/blobs/uploads/?mount={digest_of(bytes_of(size))}&from={NAME}")
    assert answer.status == 201


def pushed(*sizes: int) -> Callable[[FakeRegistry], Awaitable[None]]:
    """Prepare blobs of these sizes."""

    async def prepare(registry: FakeRegistry) -> None:
        for size in sizes:
            await registry.push_blob(NAME, bytes_of(size))

    return prepare


async def put_layers(registry: FakeRegistry, count: int) -> None:
    """Put the manifest of an image with `count` existing layers."""
    layers = [bytes_of(size) for size in range(1, count + 1)]
    assert (await put_manifest(registry, NAME, "1.0", image(b"", layers))).status == 201


async def ten_thousand_digests(registry: FakeRegistry) -> None:
    """Prepare a repository with 10,000 manifests, one tag and 10,000 blobs."""
    for number in range(10_000):
        for kind in ("manifests", "blobs"):
            registry.bucket.seed(f"{NAME}/{kind}/{digest_of(str(number).encode())}", b"{}", NO_ATTRIBUTES, None)
    registry.bucket.seed(f"{NAME}/manifests/latest", b"{}", NO_ATTRIBUTES, None)


async def a_hundred_repositories(registry: FakeRegistry) -> None:
    """Prepare 100 repositories with 100 blobs each."""
    for number in range(100):
        name = f"r{number:03}"
        registry.bucket.seed(f"{name}/manifests/latest", b"{}", NO_ATTRIBUTES, None)
        for blob in range(100):
            registry.bucket.seed(f"{name}/blobs/{digest_of(str(blob).encode())}", b"{}", NO_ATTRIBUTES, None)


async def whole_catalogue(registry: FakeRegistry) -> None:
    """List all pages of the catalog."""
    url, count = "/v2/_catalog", 0
    while url:
        answer = await registry.call("GET", url)
        count += len(json.loads(answer.body)["repositories"])
        url = answer.headers.get("Link", "").partition(">")[0][1:]
    assert count == 100


async def a_pushed_image(registry: FakeRegistry) -> None:
    """Prepare the image of five layers."""
    await docker_push(registry)


async def an_image_of_skopeo(registry: FakeRegistry) -> None:
    """Prepare the image of five layers as skopeo stores it: blobs with a Content-Length have fewer parts."""
    await skopeo_push(registry)


async def get(registry: FakeRegistry, method: str, size: int) -> None:
    """GET or HEAD one blob."""
    assert (await registry.call(method, f"/v2/{NAME}/blobs/{digest_of(bytes_of(size))}")).status == 200


async def get_part(registry: FakeRegistry, size: int) -> None:
    """GET the second half of a blob."""
    url = f"/v2/{NAME}/blobs/{digest_of(bytes_of(size))}"
    assert (await registry.call("GET", url, headers={"Range": f"bytes={size // 2}-"})).status == 206


async def get_ranges(registry: FakeRegistry, size: int) -> None:
    """Six ranges, of which four touch or overlap: three are left."""
    url = f"/v2/{NAME}/blobs/{digest_of(bytes_of(size))}"
    asked = "bytes=0-99,100-199,50-149,1000-1999,190-250,5000-5999"
    answer = await registry.call("GET", url, headers={"Range": asked})
    assert (answer.status, answer.body.count(b"Content-Range")) == (206, 3)


def signed(count: int) -> Callable[[FakeRegistry], Awaitable[None]]:
    """A manifest with so many signatures."""

    async def prepare(registry: FakeRegistry) -> None:
        await registry.push_blob(NAME, b"{}")
        for number in range(count):
            data = json.dumps(image(b"{}", [], subject=SUBJECT, annotations={"n": str(number)})).encode()
            assert (await put_manifest(registry, NAME, digest_of(data), data)).status == 201

    return prepare


def signed_there(count: int) -> Callable[[FakeRegistry], Awaitable[None]]:
    """The same in a registry behind this one."""

    async def prepare(registry: FakeRegistry) -> None:
        await an_upstream(registry)
        await nothing(registry)
        upstream = FakeUpstream(referrers_page=count)
        for number in range(count):
            upstream.attach(NAME, b"subject", "a/signature", n=str(number))
        registry.web.servers[UPSTREAM] = upstream

    return prepare


async def signed_there_and_listed(registry: FakeRegistry) -> None:
    """They were listed a minute ago."""
    await signed_there(90)(registry)
    await list_referrers(registry, 90)
    registry.clock.now += 60


async def list_referrers(registry: FakeRegistry, count: int) -> None:
    """All of them, in one answer."""
    answer = await registry.call("GET", f"/v2/{NAME}/referrers/{SUBJECT['digest']}")
    assert len(json.loads(answer.body)["manifests"]) == count


async def delete(registry: FakeRegistry, path: str) -> None:
    """DELETE a path of the repository."""
    assert (await registry.call("DELETE", f"/v2/{NAME}/{path}")).status == 202


async def delete_image(registry: FakeRegistry) -> None:
    """Delete the image of `a_pushed_image` by its manifest's digest."""
    manifest = await registry.call("HEAD", f"/v2/{NAME}/manifests/1.0")
    await delete(registry, f"manifests/{manifest.headers['Docker-Content-Digest']}")


async def list_tags(registry: FakeRegistry) -> None:
    """List the tags of `ten_thousand_digests`."""
    answer = await registry.call("GET", f"/v2/{NAME}/tags/list")
    assert json.loads(answer.body)["tags"] == ["latest"]


async def an_upstream(registry: FakeRegistry) -> None:
    """Prepare an upstream registry that has the image of five layers."""
    upstream = FakeUpstream()
    upstream.push(NAME, "1.0", [bytes_of(size) for size in LAYERS])
    registry.settings = read_settings({**VARIABLES, "REGISTRIES_JSON": json.dumps([{"registry": UPSTREAM}])}.get)
    registry.web.servers[UPSTREAM] = upstream
    registry.restart()


async def a_copied_image(registry: FakeRegistry) -> None:
    """Prepare an image that was pulled through an hour ago."""
    await an_upstream(registry)
    await pull(registry)
    registry.clock.now += 3600


def _attributes_of(data: bytes) -> Attributes:
    """The attributes with which a push stores a manifest."""
    packed = pack(references_of(parse_manifest(data, MANIFEST)))
    assert packed is not None
    return Attributes(MANIFEST, {"hasSubject": "false", "references": packed})


def images(count: int, layers: int) -> Callable[[FakeRegistry], Awaitable[None]]:
    """Prepare a repository of week-old tagged images with distinct layers and a shared config."""

    async def prepare(registry: FakeRegistry) -> None:
        for number in range(count):
            content = [f"{number} {layer}".encode() for layer in range(layers)]
            data = json.dumps(image(b"{}", content)).encode()
            attributes = _attributes_of(data)
            for reference in (digest_of(data), f"tag-{number}"):
                registry.bucket.seed(f"{NAME}/manifests/{reference}", data, attributes, None)
            for blob in (b"{}", *content):
                registry.bucket.seed(f"{NAME}/blobs/{digest_of(blob)}", blob, NO_ATTRIBUTES, None)
        registry.clock.now += 7 * 24 * 3600

    return prepare


async def collect(registry: FakeRegistry, blobs: int = 0) -> None:
    """Run the garbage collection, which must delete this number of blobs."""
    answer = await registry.call("POST", f"/v2/{NAME}/gc?mode=untagged", budget=registry.settings.r2_calls)
    assert json.loads(answer.body)["blobs"] == blobs


async def tick_of_the_clock(registry: FakeRegistry) -> None:
    """Run the cron trigger once on a bucket without garbage."""
    await registry.tick()


async def a_pass_is_over(registry: FakeRegistry) -> None:
    """Prepare a bucket whose clean-up has finished today's pass."""
    await a_pushed_image(registry)
    for _ in range(20):
        await tick_of_the_clock(registry)
        registry.clock.now += 600


# ---------------------------------------------------------------------- at any scale
def _image() -> tuple[bytes, Attributes]:
    """A manifest of two blobs, and its attributes."""
    data = json.dumps(image(b"{}", [b"layer"])).encode()
    return data, _attributes_of(data)


def with_settings(registry: FakeRegistry, **variables: str) -> None:
    """Restart the registry with further settings."""
    registry.settings = read_settings({**VARIABLES, **variables}.get)
    registry.restart()


def ten_thousand_repositories(*parents: str) -> Callable[[FakeRegistry], Awaitable[None]]:
    """Prepare 10,000 repositories below these names, each with a week-old image."""

    async def prepare(registry: FakeRegistry) -> None:
        data, attributes = _image()
        digest = parse_digest(digest_of(data))
        for number in range(10_000):
            name = f"{parents[number % len(parents)]}r{number:05}"
            for reference in (str(digest), "latest"):
                registry.bucket.seed(f"{name}/manifests/{reference}", data, attributes, digest)
            for blob in (b"{}", b"layer"):
                registry.bucket.seed(f"{name}/blobs/{digest_of(blob)}", blob, NO_ATTRIBUTES, None)
        registry.clock.now += 7 * 24 * 3600
        with_settings(registry, GC_MODE="untagged")

    return prepare


async def one_pass(registry: FakeRegistry) -> Upkeep:
    """Run the cron trigger until the clean-up has finished a pass, within a day."""
    registry.clock.now += 24 * 3600
    for _ in range(24 * 6):
        registry.clock.now += 600
        upkeep = await registry.tick()
        if upkeep.stage == "done":
            return upkeep
    raise AssertionError("a pass takes more than a day")


async def many_images(registry: FakeRegistry) -> None:
    """Prepare a repository of 1.7 million objects."""
    bucket = ManyImages(registry.clock, heap.IMAGES, heap.LAYERS, heap.ORPHANS)
    bucket.objects, bucket.page_with_metadata = registry.bucket.objects, registry.bucket.page_with_metadata
    registry.bucket = bucket
    with_settings(registry, R2_CALLS="10000")


async def a_hundred_thousand_tags(registry: FakeRegistry) -> None:
    """Prepare 100,000 tags of distinct images; ten of them are from today."""
    data, attributes = _image()
    for number in range(100_000):
        digest = parse_digest(digest_of(b"%d" % number))
        if number == 100_000 - 10:
            registry.clock.now += 100 * 24 * 3600
        for reference in (str(digest), f"t{number * 7919 % 100_000:05}"):
            registry.bucket.seed(f"{NAME}/manifests/{reference}", data, attributes, digest)
    rules = json.dumps([{"repositories": "**", "keep_days": 30}])
    with_settings(registry, RETENTION_JSON=rules, RETENTION_APPLIES="true")


async def retain(registry: FakeRegistry) -> None:
    """Run a pass; the retention rules keep ten tags."""
    assert (await one_pass(registry)).tags == 100_000 - 10
    assert len(registry.bucket.keys(f"{NAME}/manifests/t")) == 10


async def sixty_thousand_repositories(registry: FakeRegistry) -> None:
    """Each with a tag and its blob."""
    for number in range(60_000):
        for key in ("manifests/latest", f"manifests/{digest_of(b'')}", f"blobs/{digest_of(b'{}')}"):
            registry.bucket.seed(f"r{number * 7919 % 60_000:05}/{key}", b"{}", NO_ATTRIBUTES, None)


async def all_of_a_large_catalogue(registry: FakeRegistry) -> None:
    """List the catalog in pages of 1,000; every name comes once."""
    url, names = "/v2/_catalog?n=1000", list[str]()
    while url:
        answer = await registry.call("GET", url)
        page = json.loads(answer.body)["repositories"]
        assert len(page) == 1_000
        names += page
        url = answer.headers.get("Link", "").partition(">")[0][1:]
    assert names == [f"r{number:05}" for number in range(60_000)]


async def five_thousand_images(registry: FakeRegistry) -> None:
    """Prepare 5,000 images of 40 layers: 200 layers are large, hence links; R2 has the digest of all others."""
    for number in range(5_000):
        layers = [b"%d %d" % (number, layer) for layer in range(40)]
        data = json.dumps(image(b"{}", layers)).encode()
        attributes, checksum = _attributes_of(data), parse_digest(digest_of(data))
        for reference in (str(checksum), f"tag-{number}"):
            registry.bucket.seed(f"{NAME}/manifests/{reference}", data, attributes, checksum)
        for at, layer in enumerate((b"{}", *layers)):
            key, digest = f"{NAME}/blobs/{digest_of(layer)}", digest_of(layer)
            if at == 1 and number < 200:
                data_id = digest[-32:]
                link = {"target": data_id, "ref": "0" * 32, "size": str(len(layer)), "digest": digest}
                registry.bucket.seed(key, data_id.encode(), Attributes(metadata=link), None)
                registry.bucket.seed(f"_data/{data_id}", layer, NO_ATTRIBUTES, None)
            else:
                registry.bucket.seed(key, layer, NO_ATTRIBUTES, parse_digest(digest))


async def verify(registry: FakeRegistry) -> None:
    """Run the consistency check, which must find no problem."""
    answer = await registry.call("GET", f"/v2/{NAME}/gc?mode=verify", budget=registry.settings.r2_calls)
    assert json.loads(answer.body) == {"manifests": 10_000, "blobs": 200_001, "problems": [], "unread": 0}


@dataclass(frozen=True, slots=True)
class Flow:
    """A preparation, a measured run, and its budget: Class A calls, Class B calls, bytes written per byte pushed.

    `calls` limits both classes together. `pause` is the seconds between requests that write the same key. `heap` limits
    the bytes beyond the interpreter's own, measured in Pyodide (tests/heap.mjs).
    """

    prepare: Callable[[FakeRegistry], Awaitable[None]]
    run: Callable[[FakeRegistry], Awaitable[object]]
    class_a: int
    class_b: int
    size: int = 0  # bytes pushed
    written: float = 0.0  # times `size`
    calls: int | None = None
    pause: float = 0.0
    heap: int | None = None


def at_scale(
    prepare: Callable[[FakeRegistry], Awaitable[None]],
    run: Callable[[FakeRegistry], Awaitable[object]],
    calls: int,
    heap: int | None = None,
) -> Flow:
    """A flow with one budget for all of its calls."""
    return Flow(prepare, run, calls, calls, calls=calls, pause=1.0, heap=heap)


FLOWS: dict[str, Flow] = {
    "post": Flow(nothing, start, 0, 0),
    "put-monolithic-1MiB": Flow(nothing, lambda r: r.push_blob(NAME, bytes_of(MIB)), 1, 0, MIB, 1.0),
    "put-monolithic-64MiB": Flow(nothing, lambda r: r.push_blob(NAME, bytes_of(64 * MIB)), 3, 0, 64 * MIB, 1.0),
    "docker-1KiB": Flow(nothing, lambda r: push_chunks(r, bytes_of(KIB)), 2, 1, KIB, 2.0),
    "docker-6MiB": Flow(nothing, lambda r: push_chunks(r, bytes_of(6 * MIB)), 2, 1, 6 * MIB, 2.0),
    "docker-64MiB": Flow(nothing, lambda r: push_chunks(r, bytes_of(64 * MIB)), 13, 1, 64 * MIB, 1.0),
    "docker-64MiB-known-length": Flow(
        nothing, lambda r: push_chunks(r, bytes_of(64 * MIB), known=True), 7, 1, 64 * MIB, 1.0
    ),
    "docker-64MiB-in-5": Flow(nothing, lambda r: push_chunks(r, bytes_of(64 * MIB), 5), 17, 7, 64 * MIB, 1.3),
    "mount-1MiB": Flow(pushed(MIB), lambda r: mount(r, MIB), 1, 1, MIB, 1.0),
    "mount-64MiB": Flow(pushed(64 * MIB), lambda r: mount(r, 64 * MIB), 2, 2, 64 * MIB, 0.0),
    "head-blob": Flow(pushed(64 * MIB), lambda r: get(r, "HEAD", 64 * MIB), 0, 1),
    "get-blob": Flow(pushed(MIB), lambda r: get(r, "GET", MIB), 0, 1),
    "get-linked-blob": Flow(pushed(64 * MIB), lambda r: get(r, "GET", 64 * MIB), 0, 2),
    "put-manifest-5": Flow(pushed(*range(6)), lambda r: put_layers(r, 5), 2, 11),
    "put-manifest-127": Flow(pushed(*range(128)), lambda r: put_layers(r, 127), 12, 48),
    "tags-1-of-10000": Flow(ten_thousand_digests, list_tags, 3, 0),
    "catalog-100": Flow(a_hundred_repositories, whole_catalogue, 105, 0),
    "push-5-layers": Flow(nothing, docker_push, 33, 30, sum(LAYERS), 1.08),
    "repush-5-layers": Flow(a_pushed_image, docker_push, 3, 20),
    "second-repo-5-layers": Flow(
        a_pushed_image, lambda r: docker_push(r, "other", mount_from=NAME), 16, 32, sum(LAYERS), 0.08
    ),
    "pull-5-layers": Flow(a_pushed_image, pull, 0, 10),
    "skopeo-push-5-layers": Flow(nothing, skopeo_push, 26, 30, sum(LAYERS), 1.08),
    "skopeo-repush-5-layers": Flow(an_image_of_skopeo, skopeo_push, 1, 17),
    "skopeo-second-repo-5-layers": Flow(
        an_image_of_skopeo, lambda r: skopeo_push(r, "other", mount_from=NAME), 11, 30, sum(LAYERS), 0.08
    ),
    "skopeo-pull-5-layers": Flow(an_image_of_skopeo, pull, 0, 9),
    "pull-through-5-layers": Flow(an_upstream, pull, 13, 12, sum(LAYERS), 1.0),
    "pull-copied-5-layers": Flow(a_copied_image, pull, 0, 10),
    "get-half-a-linked-blob": Flow(pushed(64 * MIB), lambda r: get_part(r, 64 * MIB), 0, 2),
    "get-3-ranges": Flow(pushed(64 * MIB), lambda r: get_ranges(r, 64 * MIB), 0, 4),
    "referrers-90": Flow(signed(90), lambda r: list_referrers(r, 90), 1, 0),
    "referrers-1000-there": Flow(signed_there(1000), lambda r: list_referrers(r, 1000), 3, 2),
    "referrers-90-copied": Flow(signed_there_and_listed, lambda r: list_referrers(r, 90), 2, 2),
    "delete-tag": Flow(a_pushed_image, lambda r: delete(r, "manifests/1.0"), 0, 1),
    "delete-manifest": Flow(a_pushed_image, delete_image, 4, 2),
    "gc-50": Flow(images(50, 4), collect, 12, 12, calls=12),
    "gc-1000": Flow(images(1000, 10), collect, 150, 150, calls=150, pause=1.0),
    # A page of R2 has 1,000 keys, or about 100 with metadata: tests/unit/test_budgets.py tests both sizes.
    "pass-10000-idle": at_scale(ten_thousand_repositories(""), one_pass, 1_000),
    "pass-10000-idle-nested": at_scale(
        ten_thousand_repositories("", "team/", *(f"t{at:02}/x/" for at in range(98))), one_pass, 5_000
    ),
    "gc-100000-images": at_scale(many_images, lambda r: collect(r, heap.ORPHANS), 3_402, heap=40 * MIB),
    "retention-100000-tags": at_scale(a_hundred_thousand_tags, retain, 2_000),
    "catalog-1000-of-60000": at_scale(sixty_thousand_repositories, all_of_a_large_catalogue, 450),
    "verify-5000": at_scale(five_thousand_images, verify, 630),
    "gc-idle-cron": Flow(a_pass_is_over, tick_of_the_clock, 6, 6, calls=6),
    "delete-linked-blob": Flow(pushed(64 * MIB), lambda r: delete(r, f"blobs/{digest_of(bytes_of(64 * MIB))}"), 0, 2),
}
# Bytes written in addition to the content: headers of log entries, links, manifests.
OVERHEAD = 8 * KIB


async def measure(name: str, page_with_metadata: int = 100) -> FakeRegistry:
    """Run a flow on a fresh bucket; `bucket.usage` of the returned registry has its calls and bytes.

    Time stands still meanwhile, so that the fake R2 refuses a second write to a key.
    """
    flow, registry = FLOWS[name], FakeRegistry()
    registry.bucket.page_with_metadata = page_with_metadata
    await nothing(registry)
    await flow.prepare(registry)
    registry.clock.now += 1
    registry.bucket.reset()
    registry.pause = flow.pause
    before = registry.clock.now
    await flow.run(registry)
    assert flow.pause or registry.clock.now == before, "R2 was too busy: a key was written twice within a second"
    return registry
