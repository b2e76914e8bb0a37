"""Referrers through pull fallback: an upstream's list is copied like a tag, and merged with the registry's own."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from registry.content.referrers import MAX_ANSWER
from registry.ports.storage import StorageError
from registry.upstream import referrers as upstream_referrers
from tests.fakes.client import FakeRegistry, digest_of
from tests.fakes.machine import Reply, WebRequest
from tests.fakes.upstream import UPSTREAM, FakeUpstream, pieces
from tests.images import INDEX, MANIFEST, descriptor, image, put_manifest
from tests.unit.upstream.support import fail, with_upstreams

NAME = "team/app"
SIGNATURE, SBOM = "application/vnd.dev.sigstore.bundle.v0.3+json", "a/sbom"
# Descriptors per page of the upstream's referrers API; 0: no API, so that clients keep the list in a tag.
APIS = [0, 1, 100]


def subject_of(upstream: FakeUpstream) -> bytes:
    """Return the image's manifest."""
    return upstream.manifests[NAME, "1"][0]


async def ask(registry: FakeRegistry, subject: bytes, query: str = "") -> Any:
    """Request a list of referrers."""
    url = f"/v2/{NAME}/referrers/{digest_of(subject)}{query}"
    return await registry.call("GET", url, user=("reader", "looks-only"))


async def referrers(registry: FakeRegistry, subject: bytes, query: str = "") -> list[str]:
    """Return the digests of all pages."""
    found: list[str] = []
    while True:
        answer = await ask(registry, subject, query)
        assert (answer.status, answer.headers["Content-Type"]) == (200, INDEX), answer
        found += [one["digest"] for one in json.loads(answer.body)["manifests"]]
        if "Link" not in answer.headers:
            return found
        query = "?" + answer.headers["Link"].partition(">")[0].partition("?")[2]


# ------------------------------------------------------------------ lists of an upstream
@pytest.mark.parametrize("page", APIS)
async def test_signatures_of_an_upstream(registry: FakeRegistry, upstream: FakeUpstream, page: int) -> None:
    """They are listed and filtered before and after they were pulled, by another isolate, and without the upstream."""
    upstream.referrers_page = page
    subject = subject_of(upstream)
    signature = upstream.attach(NAME, subject, SIGNATURE, note="first")
    sbom = upstream.attach(NAME, subject, SBOM)
    for _ in range(2):
        assert sorted(await referrers(registry, subject)) == sorted(map(digest_of, (signature, sbom)))
        assert await referrers(registry, subject, f"?artifactType={SBOM}") == [digest_of(sbom)]
        (found,) = json.loads((await ask(registry, subject, f"?artifactType={quote(SIGNATURE)}")).body)["manifests"]
        assert found == descriptor(signature, MANIFEST) | {"artifactType": SIGNATURE, "annotations": {"note": "first"}}
        pulled = await registry.call("GET", f"/v2/{NAME}/manifests/{digest_of(signature)}")
        assert pulled.body == signature
        registry.restart()
    assert len(upstream.asked("GET", f"/referrers/{digest_of(subject)}")) == max(1, 2 // (page or 2))
    del registry.web.servers[UPSTREAM]
    registry.clock.now += 1_000
    assert len(await referrers(registry, subject)) == 2


async def test_an_empty_list_hides_no_tag(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """If the upstream's API has an empty list, the referrers in the tag are listed; other tags are pulled as before."""
    subject = subject_of(upstream)
    signature = upstream.attach(NAME, subject, SIGNATURE)
    tag = digest_of(subject).replace(":", "-")
    upstream.put(NAME, f"{tag}.sig", signature, MANIFEST)
    upstream.quirk = lambda request, reply: (
        Reply(200, {"content-type": INDEX}, [b'{"schemaVersion": 2, "manifests": []}'])
        if "/referrers/" in request.path
        else reply
    )
    assert await referrers(registry, subject) == [digest_of(signature)]
    for name in (tag, f"{tag}.sig"):
        assert (await registry.call("GET", f"/v2/{NAME}/manifests/{name}")).status == 200


@pytest.mark.parametrize("page", APIS)
async def test_nothing_there(registry: FakeRegistry, upstream: FakeUpstream, page: int) -> None:
    """Without referrers the list is empty, the upstream is asked only after `revalidate`, and nothing is written."""
    upstream.referrers_page = page
    for _ in range(3):
        assert await referrers(registry, b"unknown") == []
    assert len(upstream.requests) == 2
    assert registry.bucket.keys("") == registry.bucket.keys("_registry/")
    upstream.attach(NAME, b"unknown", SIGNATURE)
    registry.clock.now += 300
    assert len(await referrers(registry, b"unknown")) == 1


@pytest.mark.parametrize("page", APIS)
async def test_a_signature_that_comes_and_goes(registry: FakeRegistry, upstream: FakeUpstream, page: int) -> None:
    """A change is seen after `revalidate`. Pulled signatures stay; an unchanged list is not written again."""
    upstream.referrers_page = page
    subject = subject_of(upstream)
    first = upstream.attach(NAME, subject, SIGNATURE)
    assert await referrers(registry, subject) == [digest_of(first)]
    registry.bucket.reset()
    for _ in range(3):
        registry.clock.now += 301
        assert await referrers(registry, subject) == [digest_of(first)]
    assert registry.bucket.usage.written == 0
    second = upstream.attach(NAME, subject, SBOM)
    assert await referrers(registry, subject) == [digest_of(first)]
    registry.clock.now += 301
    assert sorted(await referrers(registry, subject)) == sorted(map(digest_of, (first, second)))
    assert (await registry.call("GET", f"/v2/{NAME}/manifests/{digest_of(second)}")).status == 200
    del upstream.manifests[NAME, digest_of(first)], upstream.manifests[NAME, digest_of(second)]
    empty = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).encode()
    upstream.put(NAME, digest_of(subject).replace(":", "-"), empty, INDEX)
    registry.clock.now += 301
    assert await referrers(registry, subject) == [digest_of(second)]


# ------------------------------------------------------------------ merged with the registry's own
async def test_merged_in_the_order_of_digests(
    registry: FakeRegistry, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each referrer is listed once, whatever the page boundaries of both lists are."""
    upstream.referrers_page = 7
    registry = with_upstreams({"registry": UPSTREAM, "pushed_repositories": True})
    registry.web.servers[UPSTREAM] = upstream
    registry.bucket.page_with_metadata = 3
    subject = subject_of(upstream)
    theirs = [upstream.attach(NAME, subject, SIGNATURE, n=str(number)) for number in range(30)]
    await registry.push_blob(NAME, b"{}")
    ours = [
        json.dumps(image(b"{}", [], subject=descriptor(subject, MANIFEST), artifactType=SBOM, n=number)).encode()
        for number in range(30)
    ]
    for data in (*ours, *theirs[:5]):
        assert (await put_manifest(registry, NAME, digest_of(data), data)).status == 201
    expected = sorted(map(digest_of, (*ours, *theirs)))
    for _ in range(2):
        assert await referrers(registry, subject) == expected
        registry.restart()
    monkeypatch.setattr("registry.content.referrers.MAX_ANSWER", 2_000)
    assert await referrers(registry, subject) == expected
    assert await referrers(registry, subject, f"?artifactType={SBOM}") == sorted(map(digest_of, ours))


async def test_a_repository_that_was_pushed_to(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """No upstream is asked for the signatures of a pushed repository: its own may belong to somebody else."""
    subject = subject_of(upstream)
    upstream.attach(NAME, subject, SIGNATURE)
    own = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
    assert (await put_manifest(registry, NAME, "1", own, INDEX)).status == 201
    assert await referrers(registry, subject) == []
    assert upstream.requests == []


async def test_the_first_that_has_some(upstream: FakeUpstream) -> None:
    """The next upstream is asked if one has no signatures or denies access."""
    other = "https://other.example"
    registry = with_upstreams({"registry": other}, {"registry": UPSTREAM, "exclude": ["secret/**"]})
    registry.web.servers[UPSTREAM] = upstream
    subject = subject_of(upstream)
    signature = upstream.attach(NAME, subject, SIGNATURE)
    for challenge in (None, "Negotiate"):
        registry.web.servers[other] = FakeUpstream(referrers_page=10, challenge=challenge)
        assert await referrers(registry, subject) == [digest_of(signature)]
        registry.clock.now += 301


async def test_a_collection_keeps_the_copy_with_its_subject(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """A collection deletes the copied list only after its subject is gone."""
    subject = subject_of(upstream)
    upstream.attach(NAME, subject, SIGNATURE)
    assert (await registry.call("GET", f"/v2/{NAME}/manifests/1")).status == 200
    assert len(await referrers(registry, subject)) == 1
    copy = f"{NAME}/_referrers/{digest_of(subject)}/{digest_of(subject)}"
    for is_there in (True, False):
        registry.clock.now += 7 * 24 * 3600
        assert (await registry.call("POST", f"/v2/{NAME}/gc?mode=untagged")).status == 200
        assert (copy in registry.bucket.objects) == is_there
        assert (await registry.call("DELETE", f"/v2/{NAME}/manifests/{digest_of(subject)}")).status in (202, 404)


# ------------------------------------------------------------------ upstreams that fail
@pytest.mark.parametrize("failure", ["gone", "500", "404", "401", "silent"])
async def test_a_copied_list_is_served(registry: FakeRegistry, upstream: FakeUpstream, failure: str) -> None:
    """It is served while the upstream fails or lacks the list; the upstream is not asked again at every pull."""
    subject = subject_of(upstream)
    signature = upstream.attach(NAME, subject, SIGNATURE)
    assert await referrers(registry, subject) == [digest_of(signature)]
    asked = len(registry.web.requests)
    registry.clock.now += 301
    fail(registry, upstream, failure)
    before = registry.clock.now
    for _ in range(3):
        assert await referrers(registry, subject) == [digest_of(signature)]
    assert registry.clock.now - before < 10
    assert len(registry.web.requests) <= asked + 2
    assert registry.web.open_bodies == 0


@pytest.mark.parametrize(("failure", "status"), [("gone", 502), ("500", 502), ("silent", 504), ("404", 200)])
async def test_nothing_copied_and_an_upstream_that_fails(
    registry: FakeRegistry, upstream: FakeUpstream, failure: str, status: int
) -> None:
    """Without a copy the failure is reported, because an empty list would mean "unsigned"; pulled ones are listed."""
    subject = subject_of(upstream)
    signature = upstream.attach(NAME, subject, SIGNATURE)
    quirk = upstream.quirk
    fail(registry, upstream, failure)
    assert (await ask(registry, subject)).status == status
    upstream.quirk = quirk
    registry.web.servers[UPSTREAM] = upstream
    assert (await registry.call("GET", f"/v2/{NAME}/manifests/{digest_of(signature)}")).status == 200
    fail(registry, upstream, failure)
    registry.clock.now += 301
    assert await referrers(registry, subject) == [digest_of(signature)]


@pytest.mark.parametrize(("failure", "status"), [("gone", 502), ("500", 502), ("404", 200)])
async def test_a_copied_list_is_not_served(upstream: FakeUpstream, failure: str, status: int) -> None:
    """With `serve_stale` false, a failure is reported although there is a copy."""
    registry = with_upstreams({"registry": UPSTREAM, "serve_stale": False})
    registry.web.servers[UPSTREAM] = upstream
    subject = subject_of(upstream)
    upstream.attach(NAME, subject, SIGNATURE)
    assert len(await referrers(registry, subject)) == 1
    registry.clock.now += 301
    fail(registry, upstream, failure)
    answer = await ask(registry, subject)
    assert answer.status == status
    assert status != 200 or json.loads(answer.body)["manifests"] == []


def as_list(body: bytes, **headers: str) -> Callable[[WebRequest, Reply], Reply]:
    """Return a quirk that answers requests for referrers with `body`."""
    sent = {"content-type": INDEX, **headers}
    return lambda request, reply: Reply(200, sent, pieces(body)) if "/referrers/" in request.path else reply


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"manifests": {}}',
        b'{"manifests": [], "manifests": []}',
        b'{"manifests": ' + b"[" * 10_000,
        b'{"manifests": [' + b"0," * 200_000 + b"0]}",
        b'{"manifests": ["' + b"x" * MAX_ANSWER + b'"]}',
    ],
    ids=["empty", "list", "no UTF-8", "object", "twice", "deep", "many", "large"],
)
async def test_lists_that_are_none(registry: FakeRegistry, upstream: FakeUpstream, body: bytes) -> None:
    """Invalid lists are answered with 502, and their memory is released."""
    upstream.quirk = as_list(body)
    answer = await ask(registry, subject_of(upstream))
    assert answer.status == 502
    assert registry.registry.platform.pulled_documents.held == 0
    assert registry.web.open_bodies == 0


async def test_a_page_that_is_no_list(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """If the upstream answers the API's path with something else than a list, the tag is used."""
    signature = upstream.attach(NAME, subject_of(upstream), SIGNATURE)
    for status, kind in ((200, "text/html"), (400, ""), (405, ""), (401, "")):
        upstream.quirk = lambda request, reply, status=status, kind=kind: (  # type: ignore[misc]
            Reply(status, {"content-type": kind}, [b"<html>"]) if "/referrers/" in request.path else reply
        )
        assert await referrers(registry, subject_of(upstream)) == [digest_of(signature)]
        registry.clock.now += 301


async def test_descriptors_that_are_none(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """Invalid descriptors are left out; of valid ones, only the members of a descriptor are shown."""
    good = descriptor(b"x", MANIFEST)
    bad: list[object] = [
        *(None, 1, "x", [], {}),
        *({**good, "digest": value} for value in (None, 1, "sha256:x", "../../x", digest_of(b"x") + "\n")),
        *({**good, "size": value} for value in (None, -1, 1.5, True, "1")),
        *({**good, "mediaType": value} for value in (None, 1, "text/html")),
    ]
    more = {"urls": ["https://evil.example"], "data": "AAAA", "annotations": {"a": 1, "b": "c"}, "artifactType": 1}
    upstream.quirk = as_list(json.dumps({"schemaVersion": 2, "manifests": [*bad, good | more, good]}).encode())
    answer = await ask(registry, subject_of(upstream))
    assert json.loads(answer.body)["manifests"] == [good | {"annotations": {"b": "c"}}]


@pytest.mark.parametrize(
    "link",
    [
        '<https://evil.example/v2/x?from=1>; rel="next"',
        "<?from=1>;rel=next",
        f'</v2/{NAME}/referrers/x?{"y" * 4_000}>; rel="next"',
        '<//[>; rel="next"',
        "from=1",
        "<?a\\b>; rel=next",
    ],
)
async def test_links_lead_nowhere_else(registry: FakeRegistry, upstream: FakeUpstream, link: str) -> None:
    """A Link is followed only to the next page of the same list, and only a limited number of times."""
    index = json.dumps({"schemaVersion": 2, "manifests": [descriptor(b"x", MANIFEST)]}).encode()
    upstream.quirk = as_list(index, link=link)
    assert await referrers(registry, subject_of(upstream)) == [digest_of(b"x")]
    assert {request.origin for request in registry.web.requests} == {UPSTREAM}
    assert all(request.path.startswith(f"/v2/{NAME}/referrers/sha256:") for request in upstream.requests)
    assert len(upstream.requests) <= 20


async def test_very_many(
    registry: FakeRegistry, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Descriptors above the limit are left out and logged; the memory for a list is reserved once."""
    monkeypatch.setattr(upstream_referrers, "MAX_KEPT", 100_000)
    items = [descriptor(str(number).encode(), MANIFEST) for number in range(1_000)]
    upstream.quirk = as_list(json.dumps({"schemaVersion": 2, "manifests": items}).encode())
    for _ in range(2):
        found = await referrers(registry, subject_of(upstream))
        assert 500 < len(found) < 1_000
        ledger = registry.registry.platform.pulled_documents
        assert (ledger.held, ledger.peak) == (0, 2 * MAX_ANSWER)
        registry.restart()
    assert "referrers-cut" in capsys.readouterr().out


async def test_storage_that_fails(registry: FakeRegistry, upstream: FakeUpstream) -> None:
    """A list is served even if its copy cannot be stored."""
    subject = subject_of(upstream)
    signature = upstream.attach(NAME, subject, SIGNATURE)

    def fail_writes(call: str, key: str) -> None:
        if call == "put" and "_referrers" in key:
            raise StorageError("R2 fell over")

    registry.bucket.fail = fail_writes
    assert await referrers(registry, subject) == [digest_of(signature)]


async def test_a_thousand_signatures(
    registry: FakeRegistry, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copied list takes at most five R2 calls, with pages as large as in production."""
    monkeypatch.setattr("tests.fakes.r2.PAGE_WITH_METADATA", 1000)
    upstream.referrers_page = 1_000
    subject = subject_of(upstream)
    for number in range(1_000):
        upstream.attach(NAME, subject, SIGNATURE, n=str(number))
    assert len(await referrers(registry, subject)) == 1_000
    registry.restart()
    registry.bucket.reset()
    assert len(await referrers(registry, subject)) == 1_000
    assert registry.bucket.usage.class_a + registry.bucket.usage.class_b <= 5
