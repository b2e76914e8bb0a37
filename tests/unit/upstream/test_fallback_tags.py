"""Pull fallback: tags that move, and stale copies."""

import pytest

from tests.fakes.client import FakeRegistry, digest_of
from tests.fakes.machine import Reply
from tests.fakes.upstream import UPSTREAM, FakeUpstream
from tests.unit.upstream.support import NAME, fail, get, with_upstreams


# ------------------------------------------------------------------ tags move
async def test_a_tag_that_moves_is_seen(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """After `revalidate` the tag is compared with HEAD, and fetched only if it moved. Digests are never compared."""
    old = (await get(registry, "manifests/1")).body
    new = upstream.push(NAME, "1", [b"newer"])
    registry.clock.now += 290
    assert (await get(registry, "manifests/1")).body == old
    assert len(upstream.requests) == 1
    registry.clock.now += 10
    for _ in range(3):
        assert (await get(registry, "manifests/1")).body == new
    assert (await get(registry, f"manifests/{digest_of(old)}")).body == old
    assert [one.method for one in upstream.requests] == ["GET", "HEAD", "GET"]
    for _ in range(3):
        registry.clock.now += 301
        assert (await get(registry, "manifests/1", "HEAD")).headers["Docker-Content-Digest"] == digest_of(new)
    assert [one.method for one in upstream.requests] == ["GET", "HEAD", "GET", "HEAD", "HEAD", "HEAD"]


async def test_an_upstream_whose_head_says_no_digest(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """Without a digest in the HEAD answer the manifest is fetched and compared, and not written again."""
    upstream.quirk = lambda _, reply: Reply(reply.status, {"content-type": reply.headers["content-type"]}, reply.chunks)
    assert (await get(registry, "manifests/1")).status == 200
    registry.bucket.reset()
    for _ in range(3):
        registry.clock.now += 301
        assert (await get(registry, "manifests/1")).status == 200
    assert len(upstream.asked("GET", "/manifests/")) == 4
    assert registry.bucket.usage.class_a == 0


@pytest.mark.parametrize("failure", ["gone", "500", "404", "401", "silent"])
async def test_stale_copies_are_served(registry: FakeRegistry, upstream: FakeUpstream, failure: str) -> None:
    """A copy is served while the upstream fails or lacks the tag; it is revalidated soon, but not at every pull."""
    old = (await get(registry, "manifests/1")).body
    registry.clock.now += 301
    fail(registry, upstream, failure)
    before = registry.clock.now
    for _ in range(3):
        assert (await get(registry, "manifests/1")).body == old
    assert registry.clock.now - before < 10
    assert len(registry.web.requests) == 2
    new = upstream.push(NAME, "1", [b"newer"])
    upstream.quirk = lambda _, reply: reply
    registry.web.servers[UPSTREAM] = upstream
    registry.clock.now += 30
    assert (await get(registry, "manifests/1")).body == new


@pytest.mark.parametrize(
    ("failure", "status"), [("gone", 502), ("500", 502), ("404", 404), ("401", 404), ("silent", 504)]
)
async def test_stale_copies_are_not_served(upstream: FakeUpstream, failure: str, status: int) -> None:
    """With `serve_stale` false a stale tag is not served; its manifest is, by digest."""
    registry = with_upstreams({"registry": UPSTREAM, "serve_stale": False})
    registry.web.servers[UPSTREAM] = upstream
    old = (await get(registry, "manifests/1")).body
    registry.clock.now += 301
    fail(registry, upstream, failure)
    for method in ("GET", "HEAD"):
        assert (await get(registry, "manifests/1", method)).status == status
        registry.clock.now += 30
    assert (await get(registry, f"manifests/{digest_of(old)}")).body == old
