"""Pull fallback: the content of an upstream is served and copied."""

import asyncio
import json

from registry.settings import read_settings
from tests.fakes.client import ORIGIN, VARIABLES, FakeRegistry, digest_of
from tests.fakes.machine import Reply, WebRequest
from tests.fakes.upstream import UPSTREAM, FakeUpstream, ask_registry, pieces
from tests.images import push_image
from tests.unit.upstream.support import (
    LARGE,
    LAYERS,
    NAME,
    SMALL,
    blob,
    get,
    holds_only_verified_bytes,
    with_upstreams,
)


# ------------------------------------------------------------------ content is served and copied
async def test_an_image_is_copied_while_it_is_pulled(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """After one pull the image is stored and listed, and is served without the upstream."""
    for _ in range(2):
        tagged = await get(registry, "manifests/1")
        assert tagged.body == upstream.manifests[NAME, "1"][0]
        assert tagged.headers["Docker-Content-Digest"] == digest_of(tagged.body)
        assert tagged.headers["Content-Type"] == upstream.manifests[NAME, "1"][1]
        for layer in LAYERS:
            answer = await blob(registry, layer)
            assert (answer.status, answer.body, answer.is_whole) == (200, layer, True)
            assert answer.headers["Content-Length"] == str(len(layer))
    assert len(upstream.asked("GET", "/manifests/")) == 1
    assert len(upstream.asked("GET", "/blobs/")) == len(LAYERS)
    del registry.web.servers[UPSTREAM]
    registry.restart()
    for path in ("manifests/1", f"manifests/{digest_of(tagged.body)}", *(f"blobs/{digest_of(one)}" for one in LAYERS)):
        assert (await get(registry, path)).status == 200
    assert json.loads((await get(registry, "tags/list")).body)["tags"] == ["1"]
    assert json.loads((await registry.call("GET", "/v2/_catalog")).body)["repositories"] == [NAME]
    holds_only_verified_bytes(registry)


async def test_an_index_and_its_children(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """Each manifest is copied when a client requests it, also with HEAD."""
    child = upstream.push(NAME, "child", [SMALL])
    index = upstream.push_index(NAME, "all", [child])
    for method in ("HEAD", "GET"):
        for path, data in (("all", index), (digest_of(index), index), (digest_of(child), child)):
            answer = await get(registry, f"manifests/{path}", method)
            assert (answer.status, answer.headers["Docker-Content-Digest"]) == (200, digest_of(data))
            assert answer.headers["Content-Length"] == str(len(data))
            assert answer.body == (data if method == "GET" else b"")
    assert len(upstream.asked("GET", "/manifests/")) == 2
    assert registry.bucket.keys(f"{NAME}/manifests/") == sorted(
        f"{NAME}/manifests/{reference}" for reference in ("all", digest_of(index), digest_of(child))
    )


async def test_unknown_there_too(registry: FakeRegistry) -> None:
    """Content that no upstream has is answered with 404, as without upstreams."""
    for path, code in ((f"blobs/{digest_of(b'x')}", "BLOB_UNKNOWN"), ("manifests/2", "MANIFEST_UNKNOWN")):
        for method in ("GET", "HEAD"):
            assert (await get(registry, path, method)).status == 404
        assert (await get(registry, path)).codes == [code]
    assert registry.bucket.keys(f"{NAME}/") == []


async def test_ours_behind_ours(upstream: FakeUpstream) -> None:
    """Another instance of this registry works as an upstream, with its redirects and tokens."""
    first = FakeRegistry(settings=read_settings({**VARIABLES, "BEARER_TOKENS": "true"}.get))
    image = await push_image(first, NAME, "1", [LARGE])
    entry = {"registry": ORIGIN, "username": "reader", "password_env": "READONLY_PASSWORD"}
    second = with_upstreams(entry)
    first.clock = second.clock  # both share one time
    first.restart()
    second.web.servers[ORIGIN] = lambda request: ask_registry(first, request)
    for _ in range(2):
        assert (await get(second, "manifests/1")).body == image
        assert (await blob(second, LARGE)).body == LARGE
    scopes = [url for url in second.web.asked if "/v2/token" in url]
    assert len(scopes) == 1
    assert "repository%3Ateam%2Fapp%3Apull&" in scopes[0] + "&"


# ------------------------------------------------------------------ ranges, conditions, HEAD
async def test_parts_of_what_is_not_copied(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """A range is served from the upstream without a copy; the next pull of the whole blob copies it."""
    size = len(LARGE)
    for asked, first, last in (("0-99", 0, 99), (f"{size - 5}-", size - 5, size - 1), ("-7", size - 7, size - 1)):
        answer = await blob(registry, LARGE, range=f"bytes={asked}")
        assert (answer.status, answer.body) == (206, LARGE[first : last + 1])
        assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{size}"
        assert answer.headers["Content-Length"] == str(last - first + 1)
    assert (await blob(registry, LARGE, range=f"bytes={size}-")).status == 416
    assert registry.bucket.keys(f"{NAME}/blobs/") == []
    several = await blob(registry, LARGE, range="bytes=0-1,4-5")
    assert (several.status, several.body) == (200, LARGE)
    assert (await blob(registry, LARGE, range="bytes=0-0", if_range='"other"')).status == 200
    assert len(upstream.asked("GET", "/blobs/")) == 4


async def test_an_upstream_without_ranges(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """If the upstream ignores ranges, the answer is the whole blob, as HTTP allows, and it is copied."""

    def no_ranges(request: WebRequest, reply: Reply) -> Reply:
        return Reply(200, {"content-length": str(len(LARGE))}, pieces(LARGE)) if reply.status == 206 else reply

    upstream.quirk = no_ranges
    answer = await blob(registry, LARGE, range="bytes=5-9")
    assert (answer.status, answer.body) == (200, LARGE)
    answer = await blob(registry, LARGE, range="bytes=5-9")
    assert (answer.status, answer.body) == (206, LARGE[5:10])


async def test_a_part_that_is_another_one(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """A range other than the requested one is not served."""

    def shifted(request: WebRequest, reply: Reply) -> Reply:
        headers = {**reply.headers, "content-range": f"bytes 6-10/{len(LARGE)}"}
        return Reply(206, headers, reply.chunks) if reply.status == 206 else reply

    upstream.quirk = shifted
    assert (await blob(registry, LARGE, range="bytes=5-9")).body == LARGE


async def test_head_and_conditions(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """HEAD answers with the size and copies nothing; a conditional request gets no bytes if the client has the blob."""
    head = await blob(registry, LARGE, "HEAD")
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(LARGE)))
    for method in ("GET", "HEAD"):
        assert (await blob(registry, LARGE, method, if_none_match=f'"{digest_of(LARGE)}"')).status == 304
    assert upstream.asked("GET", "/") == []
    assert registry.bucket.keys(f"{NAME}/") == []


# ------------------------------------------------------------------ which upstream
async def test_order_and_names(upstream: FakeUpstream) -> None:
    """Upstreams are asked in order; `prefix` is removed; `include` and `exclude` match the upstream's names."""
    other = FakeUpstream()
    other.push("library/alpine", "1", [b"hub"])
    other.push("secret/app", "1", [b"secret"])
    registry = with_upstreams(
        {"registry": UPSTREAM, "include": ["team/**"]},
        {"registry": "https://index.docker.io/", "prefix": "hub", "exclude": ["secret/**"]},
    )
    registry.web.servers[UPSTREAM] = upstream
    registry.web.servers["https://registry-1.docker.io"] = other
    for name, status in (
        ("team/app", 200),
        ("hub/alpine", 200),
        ("hub/library/alpine", 200),
        ("hub/secret/app", 404),
        ("library/alpine", 404),
        ("hub", 404),
        ("hubs/alpine", 404),
    ):
        assert (await registry.call("GET", f"/v2/{name}/manifests/1")).status == status
    assert upstream.asked("GET", "") == ["/v2/team/app/manifests/1"]
    assert other.asked("GET", "") == ["/v2/library/alpine/manifests/1"] * 2
    names = json.loads((await registry.call("GET", "/v2/_catalog")).body)["repositories"]
    assert sorted(names) == ["hub/alpine", "hub/library/alpine", "team/app"]


async def test_a_tag_is_not_looked_for_behind_an_upstream_that_fails(upstream: FakeUpstream) -> None:
    """The next upstream may have another image under that tag. A digest means the same content everywhere."""
    registry = with_upstreams({"registry": "https://down.example"}, {"registry": UPSTREAM})
    registry.web.servers[UPSTREAM] = upstream
    manifest = upstream.manifests[NAME, "1"][0]
    assert (await get(registry, "manifests/1")).status == 502
    assert (await get(registry, f"manifests/{digest_of(manifest)}")).body == manifest
    assert (await blob(registry, SMALL)).body == SMALL

    async def empty(request: WebRequest) -> Reply:
        return Reply(404)

    registry.web.servers["https://down.example"] = empty
    assert (await get(registry, "manifests/1")).body == manifest


async def test_nobody_else_is_called(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """No upstream is asked for stored content, for lists of tags, or for an invalid reference."""
    await registry.push_blob(NAME, SMALL)
    assert (await blob(registry, SMALL)).status == 200
    assert (await get(registry, "tags/list")).status == 404
    assert (await get(registry, "manifests/not..a/tag")).status == 404
    assert upstream.requests == []


def test_the_catalogue_of_a_stranger() -> None:
    """A client without valid credentials gets nothing from an upstream."""
    registry = with_upstreams({"registry": UPSTREAM})
    for user in (None, ("hello", "wrong")):
        answer = asyncio.run(registry.call("GET", f"/v2/{NAME}/manifests/1", user=user))
        assert answer.status == 401
    assert registry.web.requests == []
