"""Listing referrers: end-12."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from registry.content.referrers import MAX_ANNOTATIONS, MAX_ANSWER
from registry.ports.storage import NO_ATTRIBUTES
from registry.spec.names import parse_digest, parse_name
from registry.storage import keys
from tests.fakes.client import FakeRegistry, digest_of
from tests.images import INDEX, MANIFEST, descriptor, image, put_manifest

NAME = "team/app"
MIB = 1024 * 1024
SUBJECT = descriptor(b"the subject", MANIFEST)


async def referrers(registry: FakeRegistry, subject: str, query: str = "") -> tuple[list[dict[str, Any]], str | None]:
    """A page of descriptors, and where its Link leads."""
    answer = await registry.call("GET", f"/v2/{NAME}/referrers/{subject}{query}")
    assert answer.status == 200, answer
    assert answer.headers["Content-Type"] == INDEX
    assert ("OCI-Filters-Applied" in answer.headers) == ("artifactType" in query)
    link = answer.headers.get("Link")
    rest = None if link is None else link[1 : link.index(">")].partition(subject)[2]
    return json.loads(answer.body)["manifests"], rest


async def test_referrers(registry: FakeRegistry) -> None:
    """Whoever names the subject, with artifact type and annotations; filtered; none is an empty list, not a 404."""
    await registry.push_blob(NAME, b"{}")
    for kind in ("a/sbom", "a/signature"):
        document = image(b"{}", [], subject=SUBJECT, artifactType=kind, annotations={"kind": kind})
        assert (await put_manifest(registry, NAME, digest_of(json.dumps(document).encode()), document)).status == 201
    found, link = await referrers(registry, SUBJECT["digest"])
    assert sorted(one["artifactType"] for one in found) == ["a/sbom", "a/signature"]
    assert link is None
    (only,), _ = await referrers(registry, SUBJECT["digest"], "?artifactType=a/sbom")
    assert only["annotations"] == {"kind": "a/sbom"}
    assert await referrers(registry, digest_of(b"unknown")) == ([], None)


async def attach(registry: FakeRegistry, kind: str, annotations: Mapping[str, str]) -> str:
    """Push a manifest that names the subject; its digest."""
    data = json.dumps(image(b"{}", [], subject=SUBJECT, artifactType=kind, annotations=annotations)).encode()
    answer = await put_manifest(registry, NAME, digest_of(data), data)
    assert answer.status == 201, answer
    return digest_of(data)


def seed(registry: FakeRegistry, digest: str, data: bytes) -> None:
    """An entry as serverless-registry and older versions stored it: without metadata."""
    key = keys.referrer(parse_name(NAME), parse_digest(SUBJECT["digest"]), parse_digest(digest))
    registry.bucket.seed(key, data, NO_ATTRIBUTES, None)


async def everything(registry: FakeRegistry, query: str) -> tuple[list[str], int]:
    """The digests on all pages, and how many pages there were; only the last may be empty."""
    found, link = await referrers(registry, SUBJECT["digest"], query)
    pages = 1
    digests = [one["digest"] for one in found]
    while link is not None:
        assert found
        found, link = await referrers(registry, SUBJECT["digest"], link)
        digests += [one["digest"] for one in found]
        pages += 1
    return digests, pages


async def test_many_referrers_come_in_one_answer(registry: FakeRegistry) -> None:
    """cosign, crane and policy controllers read one page; one entry that is damaged is left out."""
    await registry.push_blob(NAME, b"{}")
    expected = [await attach(registry, f"a/{number % 2}", {"n": str(number)}) for number in range(121)]
    seed(registry, digest_of(b"damaged"), b"[")
    before = registry.bucket.usage.class_b
    digests, pages = await everything(registry, "")
    assert (sorted(digests), pages) == (sorted(expected), 1)
    digests, pages = await everything(registry, "?artifactType=a/1")
    assert (sorted(digests), pages) == (sorted(expected[1::2]), 1)
    assert registry.bucket.usage.class_b - before == 2, "nothing but the damaged one is read"


async def test_a_thousand_signatures(registry: FakeRegistry) -> None:
    """Five R2 calls at most, with the pages of production."""
    registry.bucket.page_with_metadata = 1000
    await registry.push_blob(NAME, b"{}")
    for number in range(1_000):
        await attach(registry, "a/signature", {"n": str(number)})
    before = registry.bucket.usage.class_a + registry.bucket.usage.class_b
    digests, pages = await everything(registry, "")
    assert (len(set(digests)), pages) == (1_000, 1)
    assert registry.bucket.usage.class_a + registry.bucket.usage.class_b - before <= 5


async def test_annotations_in_a_descriptor_are_bounded(registry: FakeRegistry) -> None:
    """Those that fit are there; the manifest has all of them."""
    await registry.push_blob(NAME, b"{}")
    annotations = {"first": "1", "large": "x" * MAX_ANNOTATIONS, "é" * 500: "é" * 500, "last": "2"}
    digest = await attach(registry, "a/sbom", annotations)
    ((found,), _) = await referrers(registry, SUBJECT["digest"])
    assert found["annotations"] == {name: annotations[name] for name in annotations if name != "large"}
    manifest = await registry.call("GET", f"/v2/{NAME}/manifests/{digest}")
    assert json.loads(manifest.body)["annotations"] == annotations


async def test_descriptors_that_are_too_large_for_metadata(registry: FakeRegistry) -> None:
    """Are read when they are shown, and only then; an artifact type may be as long as it likes."""
    await registry.push_blob(NAME, b"{}")
    large = await attach(registry, "a/large", {"x": "y" * 10_000})
    longest = await attach(registry, "a/" + "z" * 3_000, {})
    small = await attach(registry, "a/small", {})
    for query, expected, reads in (
        ("?artifactType=a/small", {small}, 1),
        ("?artifactType=a/large", {large}, 2),
        ("?artifactType=a/none", set[str](), 1),
        ("", {small, large, longest}, 2),
    ):
        before = registry.bucket.usage.class_b
        digests, _ = await everything(registry, query)
        assert set(digests) == expected
        assert registry.bucket.usage.class_b - before == reads


@pytest.mark.parametrize("query", ["", "?artifactType=a/old"])
async def test_an_answer_ends_at_four_mebibytes(registry: FakeRegistry, query: str) -> None:
    """Entries that older versions stored with all their annotations come a few at a time; no memory stays taken."""
    expected = set()
    for number in range(12):
        digest = digest_of(str(number).encode())
        document = descriptor(str(number).encode(), MANIFEST)
        document |= {"artifactType": "a/old", "annotations": {"x": "y" * (3 * MIB // 2)}}
        seed(registry, digest, json.dumps(document).encode())
        expected.add(digest)
    digests, pages = await everything(registry, query)
    assert set(digests) == expected
    assert len(digests) == len(expected)
    assert pages == 6
    answer = await registry.call("GET", f"/v2/{NAME}/referrers/{SUBJECT['digest']}")
    assert len(answer.body) < MAX_ANSWER
    ledger = registry.registry.platform.pulled_documents
    assert (ledger.held, ledger.peak) == (0, 2 * MAX_ANSWER)
