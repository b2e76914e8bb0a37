"""Push and pull of manifests: end-3, end-7."""

import json
from typing import Any

import pytest

from registry.ports.storage import NO_ATTRIBUTES, Attributes
from registry.spec.manifest_format import MAX_MANIFEST_SIZE
from registry.spec.paths import MAX_TAGS
from tests.fakes.client import FakeRegistry, digest_of
from tests.images import (
    CONFIG,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEX,
    LAYER,
    MANIFEST,
    descriptor,
    image,
    push_image,
    put_manifest,
)

NAME = "team/app"
CONFIG_BYTES = b"{}"
LAYER_BYTES = b"a layer"


@pytest.fixture
async def blobs(registry: FakeRegistry) -> FakeRegistry:
    """Return a registry that has a config and a layer in `team/app`."""
    await registry.push_blob(NAME, CONFIG_BYTES)
    await registry.push_blob(NAME, LAYER_BYTES)
    return registry


async def test_an_index_over_what_a_refused_push_left(blobs: FakeRegistry) -> None:
    """A child may exist without its layers: then the index is refused. An unreadable child counts as complete."""
    child = json.dumps(image(CONFIG_BYTES, [LAYER_BYTES])).encode()
    assert (await put_manifest(blobs, NAME, digest_of(child), child)).status == 201
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(child, MANIFEST)]}
    layer = f"{NAME}/blobs/{digest_of(LAYER_BYTES)}"
    stored = blobs.bucket.objects.pop(layer)
    blobs.bucket.seed(f"{NAME}/blobs/odd", b"", NO_ATTRIBUTES, None)
    refused = await put_manifest(blobs, NAME, "1", index, INDEX)
    assert (refused.status, refused.codes) == (404, ["MANIFEST_BLOB_UNKNOWN"])
    assert digest_of(child).encode() in refused.body
    blobs.bucket.objects[layer] = stored
    assert (await put_manifest(blobs, NAME, "1", index, INDEX)).status == 201
    blobs.bucket.seed(f"{NAME}/manifests/{digest_of(b'odd')}", b"odd", NO_ATTRIBUTES, None)
    over_odd = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(b"odd", MANIFEST)]}
    assert (await put_manifest(blobs, NAME, "2", over_odd, INDEX)).status == 201


async def test_push_and_pull_by_tag_and_digest(registry: FakeRegistry) -> None:
    """A pull returns the pushed bytes with media type, digest and size; HEAD agrees."""
    manifest = await push_image(registry, NAME, "1.0", [LAYER_BYTES])
    digest = digest_of(manifest)
    for reference in ("1.0", digest):
        url = f"/v2/{NAME}/manifests/{reference}"
        got, head = await registry.call("GET", url), await registry.call("HEAD", url)
        assert got.status == head.status == 200
        assert (got.body, head.body) == (manifest, b"")
        for answer in (got, head):
            assert answer.headers["Content-Type"] == MANIFEST
            assert answer.headers["Docker-Content-Digest"] == digest
            assert answer.headers["Content-Length"] == str(len(manifest))
            assert "no-transform" in answer.headers["Cache-Control"]


async def test_the_answer_to_a_push(blobs: FakeRegistry) -> None:
    """201 with the digest and a location that can be pulled; with OCI-Subject and OCI-Tag where they apply."""
    manifest = json.dumps(image(CONFIG_BYTES, [LAYER_BYTES])).encode()
    answer = await put_manifest(blobs, NAME, "1.0", manifest)
    assert answer.status == 201
    assert answer.headers["Docker-Content-Digest"] == digest_of(manifest)
    assert (await blobs.call("GET", answer.location)).body == manifest
    tagged = await put_manifest(blobs, NAME, f"{digest_of(manifest)}?tag=a&tag=b", manifest)
    assert tagged.headers["OCI-Tag"] == "a, b"
    for tag in ("a", "b"):
        assert (await blobs.call("GET", f"/v2/{NAME}/manifests/{tag}")).body == manifest


async def test_received_bytes_are_the_truth(blobs: FakeRegistry) -> None:
    """White space, member order and unknown members are preserved."""
    document = image(CONFIG_BYTES, [LAYER_BYTES]) | {"x-unknown": [1, {"a": None}]}
    manifest = b"\n " + json.dumps(document, indent=3).encode() + b"\n\n"
    assert (await put_manifest(blobs, NAME, "spaces", manifest)).status == 201
    assert (await blobs.call("GET", f"/v2/{NAME}/manifests/spaces")).body == manifest


async def test_a_tag_moves(registry: FakeRegistry) -> None:
    """After a tag moves, both digests can still be pulled."""
    first = await push_image(registry, NAME, "latest", [b"1"])
    second = await push_image(registry, NAME, "latest", [b"2"])
    assert (await registry.call("GET", f"/v2/{NAME}/manifests/latest")).body == second
    assert (await registry.call("GET", f"/v2/{NAME}/manifests/{digest_of(first)}")).body == first


async def test_two_tags_in_one_second(registry: FakeRegistry) -> None:
    """A fresh manifest is not written again under its digest: R2 takes one write a second to a key."""
    manifest = await push_image(registry, NAME, "a", [LAYER_BYTES])
    registry.pause = 0
    assert (await put_manifest(registry, NAME, "b", manifest)).status == 201
    before = registry.clock.now
    assert (await put_manifest(registry, NAME, "b", manifest)).status == 201
    assert registry.clock.now > before, "the tag's own key was tried again a second later"
    registry.clock.now += 3600
    assert (await put_manifest(registry, NAME, "c", manifest)).status == 201


async def test_indexes(blobs: FakeRegistry) -> None:
    """OCI indexes and Docker manifest lists of existing manifests, nested indexes, and an empty index are accepted."""
    manifest = json.dumps(image(CONFIG_BYTES, [LAYER_BYTES])).encode()
    await put_manifest(blobs, NAME, digest_of(manifest), manifest)
    child = descriptor(manifest, MANIFEST) | {"platform": {"architecture": "amd64", "os": "linux"}}
    for media_type in (INDEX, DOCKER_LIST):
        index = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": [child]}).encode()
        assert (await put_manifest(blobs, NAME, "multi", index, media_type)).status == 201
        got = await blobs.call("GET", f"/v2/{NAME}/manifests/multi")
        assert (got.body, got.headers["Content-Type"]) == (index, media_type)
    outer = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(index, DOCKER_LIST)]}
    assert (await put_manifest(blobs, NAME, "outer", outer, INDEX)).status == 201
    assert (await put_manifest(blobs, NAME, "none", {"schemaVersion": 2, "manifests": []}, INDEX)).status == 201


async def test_other_formats(blobs: FakeRegistry) -> None:
    """Docker schema 2, schema 1 as serverless-registry accepts it, artifacts, and no Content-Type at all."""
    docker = image(CONFIG_BYTES, [LAYER_BYTES]) | {"mediaType": DOCKER_MANIFEST}
    assert (await put_manifest(blobs, NAME, "docker", docker, DOCKER_MANIFEST)).status == 201
    schema_1 = {"schemaVersion": 1, "name": NAME, "tag": "1", "fsLayers": [{"blobSum": digest_of(LAYER_BYTES)}]}
    signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    assert (await put_manifest(blobs, NAME, "one", schema_1, signed)).status == 201
    assert (await blobs.call("HEAD", f"/v2/{NAME}/manifests/one")).headers["Content-Type"] == signed
    artifact = {
        "mediaType": "application/vnd.oci.artifact.manifest.v1+json",
        "artifactType": "a/b",
        "blobs": [descriptor(LAYER_BYTES, "text/plain")],
    }
    assert (await put_manifest(blobs, NAME, "artifact", artifact, artifact["mediaType"])).status == 201  # type: ignore[arg-type]
    bare = image(CONFIG_BYTES, [])
    del bare["mediaType"]
    assert (await put_manifest(blobs, NAME, "bare", bare, None)).status == 201
    assert (await blobs.call("HEAD", f"/v2/{NAME}/manifests/bare")).headers["Content-Type"] == MANIFEST
    with_parameter = await put_manifest(blobs, NAME, "bare", bare, f"{MANIFEST}; charset=utf-8")
    assert with_parameter.status == 201
    assert (await blobs.call("HEAD", f"/v2/{NAME}/manifests/bare")).headers["Content-Type"] == MANIFEST


async def test_what_others_write_comes_back(blobs: FakeRegistry) -> None:
    """Zstd layers, the empty config of artifacts, and unknown members come back byte for byte."""
    document = image(CONFIG_BYTES, [])
    document["config"]["mediaType"] = "application/vnd.oci.empty.v1+json"
    document["config"]["data"] = "e30="
    document["layers"] = [descriptor(LAYER_BYTES, "application/vnd.oci.image.layer.v1.tar+zstd") | {"x-unknown": [1]}]
    document["artifactType"] = "application/vnd.example+type"
    document["x-unknown"] = {"a": None}
    manifest = json.dumps(document, indent=3).encode() + b"\n"
    assert (await put_manifest(blobs, NAME, "odd", manifest)).status == 201
    assert (await blobs.call("GET", f"/v2/{NAME}/manifests/odd")).body == manifest


async def test_foreign_layers_need_not_be_there(blobs: FakeRegistry) -> None:
    """Windows base layers may be stored elsewhere."""
    for media_type in (
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ):
        document = image(CONFIG_BYTES, [])
        document["layers"] = [descriptor(b"elsewhere", media_type) | {"urls": ["https://example.com/layer"]}]
        assert (await put_manifest(blobs, NAME, "windows", document)).status == 201


async def test_a_subject_need_not_be_there(blobs: FakeRegistry) -> None:
    """A referrer may come before its subject. The answer names the subject, and the entry is written."""
    subject = descriptor(b"not here yet", MANIFEST)
    document = image(CONFIG_BYTES, [], subject=subject, artifactType="a/sbom", annotations={"k": "v"})
    manifest = json.dumps(document).encode()
    answer = await put_manifest(blobs, NAME, digest_of(manifest), manifest)
    assert (answer.status, answer.headers["OCI-Subject"]) == (201, subject["digest"])
    key = f"{NAME}/_referrers/{subject['digest']}/{digest_of(manifest)}"
    assert json.loads(blobs.bucket.data(key)) == {
        "mediaType": MANIFEST,
        "digest": digest_of(manifest),
        "size": len(manifest),
        "artifactType": "a/sbom",
        "annotations": {"k": "v"},
    }


async def test_sha512_manifests(blobs: FakeRegistry) -> None:
    """A manifest pushed by its sha512 digest can be pulled by that and by tag."""
    manifest = json.dumps(image(CONFIG_BYTES, [])).encode()
    digest = digest_of(manifest, "sha512")
    assert (await put_manifest(blobs, NAME, f"{digest}?tag=t", manifest)).status == 201
    for reference in (digest, "t"):
        got = await blobs.call("GET", f"/v2/{NAME}/manifests/{reference}")
        assert (got.body, got.headers["Docker-Content-Digest"]) == (manifest, digest)


# ---------------------------------------------------------------------- refused pushes
async def test_what_is_not_there(registry: FakeRegistry) -> None:
    """An unknown manifest is 404 MANIFEST_UNKNOWN, also in an unknown repository."""
    for reference in ("1.0", digest_of(b"x"), ".invalid"):
        for method in ("GET", "HEAD"):
            answer = await registry.call(method, f"/v2/nowhere/manifests/{reference}")
            assert (answer.status, answer.codes) == (404, ["MANIFEST_UNKNOWN"])


async def test_missing_blobs_are_named(blobs: FakeRegistry) -> None:
    """Spec: "one or more MANIFEST_BLOB_UNKNOWN errors", here one for each missing blob; nothing is stored."""
    before = blobs.bucket.keys()
    answer = await put_manifest(blobs, NAME, "1.0", image(b"config?", [LAYER_BYTES, b"layer?"]))
    assert (answer.status, answer.codes) == (404, ["MANIFEST_BLOB_UNKNOWN"] * 2)
    assert [error["detail"]["digest"] for error in json.loads(answer.body)["errors"]] == [
        digest_of(b"config?"),
        digest_of(b"layer?"),
    ]
    index = {"schemaVersion": 2, "manifests": [descriptor(b"child?", MANIFEST)]}
    assert (await put_manifest(blobs, NAME, "1.0", index, INDEX)).codes == ["MANIFEST_BLOB_UNKNOWN"]
    assert blobs.bucket.keys() == before


async def test_a_wrong_digest_in_the_path(blobs: FakeRegistry) -> None:
    """DIGEST_INVALID, and nothing is stored."""
    before = blobs.bucket.keys()
    answer = await put_manifest(blobs, NAME, digest_of(b"x"), image(CONFIG_BYTES, []))
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
    assert blobs.bucket.keys() == before


@pytest.mark.parametrize("known", [True, False])
async def test_too_large(registry: FakeRegistry, known: bool) -> None:
    """413 above the limit; spec: at least 4 megabytes SHOULD be possible."""
    body = b" " * (MAX_MANIFEST_SIZE + 1)
    answer = await registry.call("PUT", "/v2/a/manifests/1", body if known else [body])
    assert (answer.status, answer.codes) == (413, ["MANIFEST_INVALID"])


async def test_four_mebibytes_are_accepted(blobs: FakeRegistry) -> None:
    """Exactly the limit."""
    document = image(CONFIG_BYTES, [], annotations={"filler": ""})
    document["annotations"]["filler"] = "x" * (MAX_MANIFEST_SIZE - len(json.dumps(document)))
    assert (await put_manifest(blobs, NAME, "large", document)).status == 201


def changed(**fields: Any) -> dict[str, Any]:
    """Return an image manifest with some members replaced; None removes a member."""
    document = image(CONFIG_BYTES, [LAYER_BYTES]) | fields
    return {key: value for key, value in document.items() if value is not None}


LAYER_DESCRIPTOR = descriptor(LAYER_BYTES, LAYER)
INVALID: list[tuple[object, str]] = [
    (b"", "the manifest is not JSON"),
    (b"\xff\xfe", "the manifest is not JSON"),
    (b"[" * 100_000, "the manifest is nested more than 100 deep"),
    (b"[" * 101 + b"]" * 101, "the manifest is nested more than 100 deep"),
    (b"[" + b"0," * 100_000 + b"0]", "the manifest has more than 100000 values"),
    (b"[" + b"{}," * 60_000 + b"{}]", "the manifest has more than 100000 values"),
    (b'{"schemaVersion": 2, "schemaVersion": 1}', 'the manifest has the name "schemaVersion" twice'),
    (b'{"a": {"b": 1, "\\u0062": 2}}', 'the manifest has the name "b" twice'),
    (b'{"schemaVersion": NaN}', "the manifest is not JSON"),
    (b"[]", "the manifest is not a JSON object"),
    (b'"text"', "the manifest is not a JSON object"),
    (changed(schemaVersion=3), "schemaVersion is not 2"),
    (changed(mediaType=7), "mediaType is not a string"),
    (changed(mediaType=DOCKER_MANIFEST), "mediaType is not the Content-Type"),
    (changed(config=None), "config is missing"),
    (changed(config=[]), "config is not a JSON object"),
    (changed(config={"mediaType": CONFIG, "size": 1}), "config.digest is missing"),
    (changed(layers={}), "layers is not an array"),
    (changed(layers=[LAYER_DESCRIPTOR, 5]), "layers[1] is not a JSON object"),
    (changed(layers=[LAYER_DESCRIPTOR | {"digest": "sha256:x"}]), "layers[0].digest is not a digest"),
    (changed(layers=[LAYER_DESCRIPTOR | {"size": -1}]), "layers[0].size is not a number of bytes"),
    (changed(layers=[LAYER_DESCRIPTOR | {"size": True}]), "layers[0].size is not a number of bytes"),
    (changed(layers=[LAYER_DESCRIPTOR | {"size": 84}]), f"layers[0].size is 84, but {digest_of(LAYER_BYTES)} has 7"),
    (changed(manifests=[]), "manifests is beside layers or config"),
    # Go's clients fold the case of names, also by Unicode's rules.
    (changed(Manifests=[]), "which some clients read as manifests"),
    (changed(Layers=[]), "which some clients read as layers"),
    (changed() | {"layer\u017f": []}, "which some clients read as layers"),
    (changed(Config={}), "which some clients read as config"),
    (changed(layers=[LAYER_DESCRIPTOR | {"Digest": "x"}]), 'layers[0] has "Digest", which some clients read as digest'),
    (changed(config=LAYER_DESCRIPTOR | {"SIZE": 1}), 'config has "SIZE", which some clients read as size'),
    (changed(subject=LAYER_DESCRIPTOR | {"mediatype": "a/b"}), 'subject has "mediatype"'),
    (changed(schemaVersion=True), "schemaVersion is not 2"),
    (changed(schemaVersion=1), "schemaVersion is 1, but the media type or the members"),
    ({"schemaVersion": 1, "fsLayers": []}, "schemaVersion is 1, but the media type or the members"),
    (changed(annotations={"\x80" * 100_000: 1}), "is not a string"),
    (changed(mediaType="text/html"), "mediaType is not the Content-Type"),
    (changed(mediaType="application/vnd.a+json\r\nX-Evil: 1"), "mediaType is"),
    (changed(subject={}), "subject.digest is missing"),
    (changed(annotations={"a": 1}), 'annotations["a"] is not a string'),
]


@pytest.mark.parametrize(("document", "reason"), INVALID, ids=[reason for _, reason in INVALID])
async def test_invalid_manifests_are_told_why(blobs: FakeRegistry, document: object, reason: str) -> None:
    """MANIFEST_INVALID with the JSON path and the reason; nothing is stored."""
    before = blobs.bucket.keys()
    answer = await put_manifest(blobs, NAME, "1.0", document)
    assert (answer.status, answer.codes) == (400, ["MANIFEST_INVALID"])
    assert reason in json.loads(answer.body)["errors"][0]["message"]
    assert blobs.bucket.keys() == before


FOREIGN_TYPES = [
    "text/html",
    "image/svg+xml",
    "application/x-www-form-urlencoded",  # of `curl --data-binary` without a header
    "application/octet-stream",
    "application/vnd.a+xml",
    "application/vnd.a+json+html",
    "application/vnd.a+json text/html",
    "application/vnd.a b+json",
    "application/vnd.+json",
    "multipart/form-data",
    "*/*",
]


@pytest.mark.parametrize("content_type", FOREIGN_TYPES)
async def test_types_that_no_manifest_has(blobs: FakeRegistry, content_type: str) -> None:
    """400 that names the Content-Type header, for any document; nothing is stored."""
    for document in (changed(), changed(mediaType=None), changed(mediaType=content_type)):
        answer = await blobs.call(
            "PUT",
            f"/v2/{NAME}/manifests/1",
            json.dumps(document).encode(),
            headers={"Content-Type": content_type},
        )
        assert (answer.status, answer.codes) == (400, ["MANIFEST_INVALID"])
        assert b"Content-Type" in answer.body
    assert (await blobs.call("GET", f"/v2/{NAME}/manifests/1")).status == 404


@pytest.mark.parametrize(
    ("sent", "declared", "stored"),
    [
        (None, None, MANIFEST),
        ("application/json; charset=utf-8", None, MANIFEST),
        (None, "application/vnd.example.thing.v1+json", "application/vnd.example.thing.v1+json"),
        ("Application/VND.Example.v1+JSON; charset=utf-8", None, "application/vnd.example.v1+json"),
        (DOCKER_MANIFEST, None, DOCKER_MANIFEST),
    ],
)
async def test_types_that_manifests_have(
    blobs: FakeRegistry, sent: str | None, declared: str | None, stored: str
) -> None:
    """The usual media types and application/vnd.…+json; without a header, the document's mediaType."""
    headers = {} if sent is None else {"Content-Type": sent}
    data = json.dumps(changed(mediaType=declared)).encode()
    assert (await blobs.call("PUT", f"/v2/{NAME}/manifests/1", data, headers=headers)).status == 201
    assert (await blobs.call("GET", f"/v2/{NAME}/manifests/1")).headers["Content-Type"] == stored


async def test_the_type_of_what_is_stored_does_not_change(blobs: FakeRegistry) -> None:
    """The same bytes pushed again with another type keep the first type, by any tag and after any time."""
    data = json.dumps(changed(mediaType=None)).encode()
    url = f"/v2/{NAME}/manifests/"
    first, second = {"Content-Type": MANIFEST}, {"Content-Type": "application/vnd.other+json"}
    assert (await blobs.call("PUT", f"{url}1", data, headers=first)).status == 201
    for tag in ("1", "2"):
        assert (await blobs.call("PUT", url + tag, data, headers=second)).status == 201
        blobs.clock.now += 1_000
    for reference in ("1", "2", digest_of(data)):
        assert (await blobs.call("GET", url + reference)).headers["Content-Type"] == MANIFEST


@pytest.mark.parametrize("media_type", [INDEX, DOCKER_LIST])
async def test_a_document_of_one_kind_with_the_type_of_the_other(blobs: FakeRegistry, media_type: str) -> None:
    """Refused, because some clients trust the header, others the document (CVE-2021-41190)."""
    for sent, document in (
        (media_type, changed(mediaType=None)),
        (MANIFEST, {"schemaVersion": 2, "manifests": []}),
        (DOCKER_MANIFEST, {"schemaVersion": 2, "manifests": []}),
    ):
        answer = await blobs.call(
            "PUT", f"/v2/{NAME}/manifests/1", json.dumps(document).encode(), headers={"Content-Type": sent}
        )
        assert (answer.status, answer.codes) == (400, ["MANIFEST_INVALID"])


@pytest.mark.parametrize("stored", ["text/html", "text/html\r\nX-Evil: 1", None])
async def test_what_older_versions_stored_is_no_page(blobs: FakeRegistry, stored: str | None) -> None:
    """A stored media type that no manifest may have is not sent to clients."""
    data = json.dumps(changed(mediaType=None)).encode()
    await blobs.bucket.put(f"{NAME}/manifests/old", data, Attributes(stored))
    answer = await blobs.call("GET", f"/v2/{NAME}/manifests/old")
    assert (answer.status, answer.headers["Content-Type"], answer.body) == (200, "application/octet-stream", data)


async def test_no_more_tags_than_one_request_may_write(blobs: FakeRegistry) -> None:
    """414, and nothing is stored."""
    data = json.dumps(changed()).encode()
    tags = "&".join(f"tag=t{number}" for number in range(MAX_TAGS + 1))
    answer = await blobs.call(
        "PUT", f"/v2/{NAME}/manifests/{digest_of(data)}?{tags}", data, headers={"Content-Type": MANIFEST}
    )
    assert (answer.status, answer.codes) == (414, ["MANIFEST_INVALID"])
    assert (await blobs.call("GET", f"/v2/{NAME}/manifests/{digest_of(data)}")).status == 404


async def test_old_images(blobs: FakeRegistry) -> None:
    """Accepted like in the reference implementation: no media type, size or layers, a null annotation."""
    config, layer = ({"digest": digest_of(data)} for data in (CONFIG_BYTES, LAYER_BYTES))
    for document in (
        {"schemaVersion": 2, "config": config, "layers": [layer]},
        {"schemaVersion": 2, "config": config, "annotations": {"a": None, "b": "c"}},
        {"schemaVersion": 2, "config": config, "layers": None, "annotations": None},
    ):
        data = json.dumps(document).encode()
        assert (await put_manifest(blobs, NAME, "old", data, DOCKER_MANIFEST)).status == 201
        assert (await blobs.call("GET", f"/v2/{NAME}/manifests/old")).body == data


@pytest.mark.parametrize("config_type", ["application/vnd.buildkit.cacheconfig.v0", CONFIG])
async def test_an_index_of_layers(blobs: FakeRegistry, config_type: str) -> None:
    """BuildKit's cache: children of an index that are blobs must exist, and are kept by collections."""
    document = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [descriptor(LAYER_BYTES, LAYER), descriptor(CONFIG_BYTES, config_type)],
    }
    assert (await put_manifest(blobs, NAME, "cache", document, INDEX)).status == 201
    blobs.clock.now += 7200
    collected = json.loads((await blobs.call("POST", f"/v2/{NAME}/gc?mode=untagged")).body)
    assert collected["blobs"] == 0
    verified = json.loads((await blobs.call("GET", f"/v2/{NAME}/gc?mode=verify")).body)
    assert (verified["blobs"], verified["problems"]) == (2, [])
    document["manifests"] = [descriptor(b"not here", LAYER)]
    answer = await put_manifest(blobs, NAME, "cache", document, INDEX)
    assert (answer.status, answer.codes) == (404, ["MANIFEST_BLOB_UNKNOWN"])


@pytest.mark.parametrize(
    "platform",
    [
        {"os": "linux", "architecture": "amd64", "Architecture": "arm64"},
        {"os": "linux", "OS": "windows"},
        {"os": "linux", "OS.Version": "1"},
        [1],
        "linux",
    ],
)
async def test_platforms_with_two_readings(blobs: FakeRegistry, platform: object) -> None:
    """Refused, because clients choose their image by the platform."""
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [{**descriptor(b"x", MANIFEST), "platform": platform}],
    }
    answer = await put_manifest(blobs, NAME, "1", index, INDEX)
    assert (answer.status, answer.codes) == (400, ["MANIFEST_INVALID"])


async def test_answers_to_long_names_are_short(blobs: FakeRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the answer nor the log repeats a long input."""
    for document in (changed(annotations={"\x80" * 600_000: 1}), changed() | {"L" * 1_000_000: 1, "Layers": 1}):
        answer = await put_manifest(blobs, NAME, "1", document)
        assert answer.status == 400
        assert len(answer.body) < 4_000
    assert max(map(len, capsys.readouterr().out.splitlines())) < 4_000


async def test_an_artifact_with_the_members_of_an_image(blobs: FakeRegistry) -> None:
    """Refused, because some clients read `blobs` and others `layers`."""
    media_type = "application/vnd.oci.artifact.manifest.v1+json"
    answer = await put_manifest(blobs, NAME, "1", changed(mediaType=media_type), media_type)
    assert (answer.status, answer.codes) == (400, ["MANIFEST_INVALID"])
