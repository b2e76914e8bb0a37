"""Pull fallback and pushes: no upstream answers for a repository with pushes."""

import json

import pytest

from registry.ports.storage import Attributes
from tests.fakes.client import FakeRegistry, digest_of
from tests.fakes.machine import Reply, WebRequest
from tests.fakes.upstream import UPSTREAM, FakeUpstream
from tests.images import put_manifest
from tests.unit.upstream.support import LARGE, NAME, SMALL, get, with_upstreams


# ------------------------------------------------------------------ pushes
async def test_pushes_never_ask(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """For a push, an upstream's blob is missing: the client uploads it, and a manifest without it is refused."""
    manifest = upstream.manifests[NAME, "1"][0]
    head = await registry.call("HEAD", f"/v2/{NAME}/blobs/{digest_of(SMALL)}")
    assert head.status == 404
    refused = await put_manifest(registry, NAME, "1", manifest)
    assert (refused.status, refused.codes[0]) == (404, "MANIFEST_BLOB_UNKNOWN")
    mounted = await registry.call("POST", f"/v2/other/blobs/uploads/?mount={digest_of(SMALL)}&from={NAME}")
    assert mounted.status == 202
    assert upstream.requests == []


async def test_a_token_for_pushing_asks_nobody(upstream: FakeUpstream) -> None:
    """HEAD of a manifest asks no upstream with a push token, and asks one with a pull token."""
    registry = with_upstreams({"registry": UPSTREAM}, BEARER_TOKENS="true")
    registry.web.servers[UPSTREAM] = upstream
    for actions, status in (("pull,push", 404), ("pull", 200)):
        answer = await registry.call("GET", f"/v2/token?scope=repository:{NAME}:{actions}")
        headers = {"Authorization": f"Bearer {json.loads(answer.body)['token']}"}
        head = await registry.call("HEAD", f"/v2/{NAME}/manifests/1", headers=headers, user=None)
        assert head.status == status
    assert len(upstream.requests) == 1


async def test_a_pushed_tag_stays(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """A pushed tag is never compared with an upstream's, not even if it replaced a copied tag."""
    assert (await get(registry, "manifests/1")).status == 200
    own = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
    index = "application/vnd.oci.image.index.v1+json"
    assert (await put_manifest(registry, NAME, "1", own, index)).status == 201
    upstream.push(NAME, "1", [b"newer"])
    registry.clock.now += 10_000
    assert (await get(registry, "manifests/1")).body == own
    assert len(upstream.requests) == 1


async def test_a_tag_that_is_pushed_while_it_is_fetched(upstream: FakeUpstream) -> None:
    """The copy does not replace a tag pushed meanwhile, whether a copy, a deleted tag or nothing was there before."""
    registry = with_upstreams({"registry": UPSTREAM, "pushed_repositories": True})
    own = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
    index = "application/vnd.oci.image.index.v1+json"
    fetched = upstream.__call__

    async def meanwhile(request: WebRequest) -> Reply:
        reply = await fetched(request)
        if request.method == "GET":
            assert (await put_manifest(registry, NAME, "1", own, index)).status == 201
        return reply

    for before in ("nothing", "a deleted tag", "a copy"):
        registry.web.servers[UPSTREAM] = upstream
        registry.side_by_side = True
        if before != "nothing":
            assert (await registry.call("DELETE", f"/v2/{NAME}/manifests/1")).status == 202
        if before == "a copy":
            assert (await get(registry, "manifests/1")).status == 200
            upstream.push(NAME, "1", [b"newer"])
            registry.clock.now += 1000
        registry.web.servers[UPSTREAM] = meanwhile
        assert (await get(registry, "manifests/1")).status == 200
        assert registry.bucket.data(f"{NAME}/manifests/1") == own
        registry.clock.now += 1000
        assert (await get(registry, "manifests/1")).body == own


# ------------------------------------------------------------------ repositories with pushes
OWN = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.mark.parametrize("pushed", ["before there were upstreams", "since", "by another isolate", "by digest"])
async def test_no_upstream_answers_for_what_was_pushed_here(
    registry: FakeRegistry, upstream: FakeUpstream, pushed: str
) -> None:
    """The upstream is not asked at all: its repository of the same name may belong to somebody else."""
    pusher = registry
    if pushed != "since":
        pusher = FakeRegistry(clock=registry.clock) if "before" in pushed else with_upstreams({"registry": UPSTREAM})
        pusher.clock = registry.clock
        pusher.bucket = registry.bucket
        pusher.restart()
    reference = digest_of(OWN) if pushed == "by digest" else "ours"
    assert (await put_manifest(pusher, NAME, reference, OWN, INDEX)).status == 201
    digest = digest_of(upstream.manifests[NAME, "1"][0])
    for path in ("manifests/1", f"manifests/{digest}", f"blobs/{digest_of(SMALL)}", f"blobs/{digest_of(LARGE)}"):
        for method in ("GET", "HEAD"):
            assert (await get(registry, path, method)).status == 404
    assert upstream.requests == []


async def test_copies_before_a_push(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """Copies from before a push stay, and are not compared any more."""
    first = (await get(registry, "manifests/1")).body
    assert (await put_manifest(registry, NAME, "ours", OWN, INDEX)).status == 201
    upstream.push(NAME, "1", [b"a stranger's"])
    registry.clock.now += 1000
    registry.restart()
    assert (await get(registry, "manifests/1")).body == first
    assert (await get(registry, "manifests/2")).status == 404
    assert len(upstream.requests) == 1


async def test_a_push_is_noted_once(registry: FakeRegistry) -> None:
    """The first push is noted in the register, and collections keep the note; without upstreams nothing is written."""
    plain = FakeRegistry()
    assert (await put_manifest(plain, NAME, "1", OWN, INDEX)).status == 201
    assert plain.bucket.keys(f"{NAME}/_gc") == []
    for tag in ("1", "2"):
        assert (await put_manifest(registry, NAME, tag, OWN, INDEX)).status == 201
    etag = registry.bucket.objects[f"{NAME}/_gc"].etag
    registry.restart()
    assert (await put_manifest(registry, NAME, "3", OWN, INDEX)).status == 201
    assert registry.bucket.objects[f"{NAME}/_gc"].etag == etag


async def test_a_push_after_a_sweep_that_broke_off(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """It is noted, so another isolate asks no upstream even after all pushed content was deleted."""
    metadata = {"phase": "sweep", "run": "r", "lease": str(registry.clock.now - 1_000), "nonce": "n"}
    registry.bucket.seed(f"{NAME}/_gc", b"n", Attributes(metadata=metadata), None)
    assert (await put_manifest(registry, NAME, "ours", OWN, INDEX)).status == 201
    assert (await registry.call("DELETE", f"/v2/{NAME}/manifests/{digest_of(OWN)}")).status == 202
    registry.restart()
    assert (await get(registry, "manifests/1")).status == 404
    assert upstream.requests == []


async def test_an_upstream_for_everything_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    """The warning is logged at the start, only for an upstream without `prefix` and `include`."""
    for entry in ({"registry": UPSTREAM}, {"registry": UPSTREAM, "exclude": ["a"]}):
        with_upstreams(entry)
        assert json.loads(capsys.readouterr().out)["event"] == "upstream-without-limits"
    with_upstreams({"registry": UPSTREAM, "prefix": "hub"}, {"registry": UPSTREAM, "include": ["a/**"]})
    assert capsys.readouterr().out == ""
