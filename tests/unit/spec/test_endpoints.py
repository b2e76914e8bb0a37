"""Parsing of requests: `registry.spec.names`, `registry.spec.endpoints`, `registry.spec.paths`."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.spec import endpoints
from registry.spec.endpoints import (
    AppendChunk,
    CancelUpload,
    CheckHealth,
    CheckVersion,
    CloseUpload,
    CollectGarbage,
    DeleteBlob,
    DeleteManifest,
    Endpoint,
    GetBlob,
    GetManifest,
    GetToken,
    GetUpload,
    HeadBlob,
    HeadManifest,
    ListReferrers,
    ListRepositories,
    ListTags,
    Migrate,
    Mode,
    MountBlob,
    PostToken,
    PreviewRetention,
    PutManifest,
    ShowFrontPage,
    ShowMetrics,
    StartUpload,
    StartUploadFor,
    UploadBlob,
    VerifyRepository,
)
from registry.spec.errors import RegistryError
from registry.spec.names import MAX_NAME_LENGTH, Digest, RepositoryName, Tag, parse_digest, parse_name, parse_reference
from registry.spec.paths import build, parse

SHA256 = Digest("sha256", "0" * 64)
SHA512 = Digest("sha512", "a" * 128)
NAME = RepositoryName("team/app")

# At least one request line for every row of the spec's table, and paths that look alike.
ROWS: list[tuple[str, str, Endpoint]] = [
    ("GET", "/", ShowFrontPage()),
    ("GET", "/healthz", CheckHealth()),
    ("GET", "/metrics", ShowMetrics()),
    ("GET", "/v2/", CheckVersion()),
    ("GET", "/v2", CheckVersion()),
    ("GET", f"/v2/team/app/blobs/{SHA256}", GetBlob(NAME, SHA256)),
    ("GET", f"/v2/team/app/blobs/sha256%3A{SHA256.hex}", GetBlob(NAME, SHA256)),
    ("HEAD", f"/v2/team/app/blobs/{SHA512}", HeadBlob(NAME, SHA512)),
    ("GET", "/v2/team/app/manifests/1.0", GetManifest(NAME, Tag("1.0"))),
    ("HEAD", f"/v2/team/app/manifests/{SHA256}", HeadManifest(NAME, SHA256)),
    ("POST", "/v2/team/app/blobs/uploads/", StartUpload(NAME)),
    ("POST", "/v2/team/app/blobs/uploads", StartUpload(NAME)),
    ("POST", f"/v2/team/app/blobs/uploads/?digest={SHA256}", UploadBlob(NAME, SHA256)),
    ("POST", "/v2/team/app/blobs/uploads/?digest-algorithm=sha512", StartUploadFor(NAME, "sha512")),
    (
        "POST",
        f"/v2/team/app/blobs/uploads/?from=team%2Fbase&mount=sha256%3A{SHA256.hex}",
        MountBlob(NAME, SHA256, RepositoryName("team/base")),
    ),
    ("POST", f"/v2/team/app/blobs/uploads/?mount={SHA256}", MountBlob(NAME, SHA256, None)),
    ("PATCH", "/v2/team/app/blobs/uploads/some.id", AppendChunk(NAME, "some.id", None)),
    ("PATCH", "/v2/team/app/blobs/uploads/some.id?entry=7", AppendChunk(NAME, "some.id", 7)),
    ("PUT", f"/v2/team/app/blobs/uploads/some.id?entry=7&digest={SHA256}", CloseUpload(NAME, "some.id", 7, SHA256)),
    # 5 TiB, the size of R2's largest object: offsets may have more digits than counts.
    ("PATCH", "/v2/team/app/blobs/uploads/some.id?entry=5497558138880", AppendChunk(NAME, "some.id", 5 * 1024**4)),
    ("GET", "/v2/team/app/blobs/uploads/some.id", GetUpload(NAME, "some.id", None)),
    ("DELETE", "/v2/team/app/blobs/uploads/some.id", CancelUpload(NAME, "some.id", None)),
    ("PUT", "/v2/team/app/manifests/1.0", PutManifest(NAME, Tag("1.0"))),
    (
        "PUT",
        f"/v2/team/app/manifests/{SHA256}?tag=1&tag=2&tag=1",
        PutManifest(NAME, SHA256, (Tag("1"), Tag("2"))),
    ),
    ("GET", "/v2/team/app/tags/list", ListTags(NAME, None, None)),
    ("GET", "/v2/team/app/tags/list?n=10&last=1.0", ListTags(NAME, 10, "1.0")),
    ("DELETE", "/v2/team/app/manifests/1.0", DeleteManifest(NAME, Tag("1.0"))),
    ("DELETE", f"/v2/team/app/blobs/{SHA256}", DeleteBlob(NAME, SHA256)),
    ("GET", f"/v2/team/app/referrers/{SHA256}", ListReferrers(NAME, SHA256, None)),
    ("GET", f"/v2/team/app/referrers/{SHA256}?artifactType=a/b%2Bc", ListReferrers(NAME, SHA256, "a/b+c")),
    ("GET", f"/v2/team/app/referrers/{SHA256}?last={SHA512}", ListReferrers(NAME, SHA256, None, SHA512)),
    ("GET", "/v2/_catalog?n=5", ListRepositories(5, None)),
    ("POST", "/v2/_migrate", Migrate()),
    ("GET", "/v2/_retention", PreviewRetention(None)),
    ("GET", "/v2/_retention?last=team/app", PreviewRetention("team/app")),
    ("POST", "/v2/team/app/gc?mode=unreferenced", CollectGarbage(NAME, Mode.UNREFERENCED, None, False)),
    ("POST", "/v2/team/app/gc?mode=untagged&grace=0&dry_run=true", CollectGarbage(NAME, Mode.UNTAGGED, 0, True)),
    ("GET", "/v2/team/app/gc?mode=verify", VerifyRepository(NAME)),
    ("GET", "/v2/token", GetToken((), offline=False)),
    (
        "GET",
        "/v2/token?scope=repository:a/b:pull&scope=registry:catalog:%2A&offline_token=true",
        GetToken(("repository:a/b:pull", "registry:catalog:*"), offline=True),
    ),
    ("POST", "/v2/token", PostToken()),
    # Repository names that contain words of the paths.
    ("GET", f"/v2/a/blobs/blobs/{SHA256}", GetBlob(RepositoryName("a/blobs"), SHA256)),
    ("GET", "/v2/manifests/manifests/manifests", GetManifest(RepositoryName("manifests"), Tag("manifests"))),
    ("GET", "/v2/tags/list/tags/list", ListTags(RepositoryName("tags/list"), None, None)),
    ("POST", "/v2/blobs/uploads/blobs/uploads/", StartUpload(RepositoryName("blobs/uploads"))),
    ("GET", "/v2/a/tags/manifests/list", GetManifest(RepositoryName("a/tags"), Tag("list"))),
]


def parse_url(method: str, url: str) -> Endpoint:
    """Parse a path with its query."""
    path, _, query = url.partition("?")
    return parse(method, path, query)


@pytest.mark.parametrize(("method", "url", "endpoint"), ROWS)
def test_every_row_is_parsed(method: str, url: str, endpoint: Endpoint) -> None:
    """Each row of the spec's table "Endpoints" becomes its own type."""
    assert parse_url(method, url) == endpoint


@pytest.mark.parametrize(("method", "endpoint"), [(row[0], row[2]) for row in ROWS])
def test_parse_and_build_are_inverses(method: str, endpoint: Endpoint) -> None:
    """A path from a Location header is parsed to the same endpoint."""
    assert endpoint.method == method
    assert parse_url(method, build(endpoint)) == endpoint


def test_every_type_has_a_row() -> None:
    """The table above has every endpoint type."""
    types = {value for value in vars(endpoints).values() if isinstance(value, type) and hasattr(value, "row")}
    assert {type(row[2]) for row in ROWS} == types


MALFORMED = [
    ("GET", "/nothing", "UNSUPPORTED", 404),
    ("POST", "/", "UNSUPPORTED", 405),
    ("GET", "v2/", "UNSUPPORTED", 404),
    ("GET", "//v2/", "UNSUPPORTED", 404),
    ("GET", "/v1/", "UNSUPPORTED", 404),
    ("GET", "/v2/team", "UNSUPPORTED", 404),
    ("GET", "/v2/%ff/manifests/1", "UNSUPPORTED", 400),
    ("GET", "/v2/team/app/tags/list?n=%ff", "UNSUPPORTED", 400),
    ("GET", "/v2/team/app/tags/list?n=-1", "UNSUPPORTED", 400),
    ("GET", "/v2/team/app/tags/list?n=1&n=2", "UNSUPPORTED", 400),
    ("GET", "/v2/Team/manifests/1", "NAME_INVALID", 400),
    ("GET", "/v2/team//app/manifests/1", "NAME_INVALID", 400),
    ("GET", "/v2/_data/manifests/1", "NAME_INVALID", 400),
    ("GET", "/v2/../etc/manifests/1", "NAME_INVALID", 400),
    ("GET", f"/v2/{'a' * 256}/manifests/1", "NAME_INVALID", 400),
    ("GET", "/v2/a/manifests/.hidden", "MANIFEST_UNKNOWN", 404),
    ("GET", f"/v2/a/manifests/{'a' * 129}", "MANIFEST_UNKNOWN", 404),
    ("PUT", "/v2/a/manifests/.hidden", "MANIFEST_INVALID", 400),
    ("PUT", "/v2/a/manifests/1?tag=2", "MANIFEST_INVALID", 400),
    ("PUT", f"/v2/a/manifests/{SHA256}?tag=.x", "MANIFEST_INVALID", 400),
    ("PUT", "/v2/a/manifests/sha256:abc", "DIGEST_INVALID", 400),
    ("GET", "/v2/a/blobs/sha256:abc", "DIGEST_INVALID", 400),
    ("GET", f"/v2/a/blobs/sha256:{'A' * 64}", "DIGEST_INVALID", 400),
    ("GET", f"/v2/a/blobs/md5:{'0' * 32}", "DIGEST_INVALID", 400),
    ("GET", "/v2/a/blobs/latest", "DIGEST_INVALID", 400),
    ("GET", "/v2/a/referrers/latest", "DIGEST_INVALID", 400),
    ("POST", "/v2/a/blobs/uploads/?digest=x", "DIGEST_INVALID", 400),
    ("PUT", "/v2/a/blobs/uploads/id", "DIGEST_INVALID", 400),
    ("PUT", "/v2/a/blobs/uploads/id?digest=sha256:0", "DIGEST_INVALID", 400),
    ("PATCH", "/v2/a/blobs/uploads/id?entry=x", "UNSUPPORTED", 400),
    ("POST", "/v2/a/manifests/1", "UNSUPPORTED", 405),
    ("PUT", "/v2/", "UNSUPPORTED", 405),
]


@pytest.mark.parametrize(("method", "url", "code", "status"), MALFORMED)
def test_malformed_requests(method: str, url: str, code: str, status: int) -> None:
    """A malformed request gets the spec's error code and a 4xx status."""
    with pytest.raises(RegistryError) as caught:
        parse_url(method, url)
    assert (caught.value.problem.code, caught.value.problem.status) == (code, status)


def test_a_405_lists_the_allowed_methods() -> None:
    """RFC 9110, section 15.5.6: a 405 MUST have Allow."""
    with pytest.raises(RegistryError) as caught:
        parse_url("POST", f"/v2/a/blobs/{SHA256}")
    assert caught.value.headers["Allow"] == "GET, HEAD, DELETE"


names = st.from_regex(
    r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*", fullmatch=True
).filter(lambda name: len(name) <= MAX_NAME_LENGTH)
digests = st.one_of(
    st.from_regex(r"sha256:[a-f0-9]{64}", fullmatch=True), st.from_regex(r"sha512:[a-f0-9]{128}", fullmatch=True)
)
tags = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", fullmatch=True)


@given(names, digests, tags)
def test_valid_names_digests_and_tags_are_accepted(name: str, digest: str, tag: str) -> None:
    """Everything that the spec's expressions match is accepted, and parsed without a change."""
    assert parse_name(name) == name
    assert str(parse_digest(digest)) == digest
    assert parse_reference(tag) == tag
    for endpoint in (GetBlob(parse_name(name), parse_digest(digest)), GetManifest(parse_name(name), Tag(tag))):
        assert parse_url("GET", build(endpoint)) == endpoint


@given(st.text(), st.text(), st.sampled_from(["GET", "PUT", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS", "x"]))
def test_any_request_line(path: str, query: str, method: str) -> None:
    """The parser returns an endpoint or raises RegistryError with a 4xx status, whatever the text."""
    for prefix in ("", "/v2/", "/v2/a/blobs/uploads/", "/v2/a/manifests/"):
        try:
            result: Any = parse(method, prefix + path, query)
        except RegistryError as error:
            status = error.problem.status
        else:
            assert isinstance(result, Endpoint)
            continue
        assert 400 <= status < 500
