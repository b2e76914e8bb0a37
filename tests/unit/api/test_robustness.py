"""For any request, the answer is a 4xx of the spec; for any failure of the bucket, no internals leak."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.ports.storage import ClientGone, StorageBusy, StorageError
from registry.settings import Settings, read_settings
from tests.fakes.client import SETTINGS, VARIABLES, FakeRegistry, digest_of
from tests.tokens import jwk, setting
from tests.unit.access.test_authenticator import ACCOUNTS

METHODS = st.sampled_from(["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
WORDS = [
    "token",
    "v2",
    "a",
    "blobs",
    "uploads",
    "manifests",
    "tags",
    "list",
    "referrers",
    "_catalog",
    "latest",
    "",
    "..",
    "%2e",
]
REFERENCES = [digest_of(b""), digest_of(b"", "sha512"), "sha256:0", "%ff", "x.1.2"]
SEGMENTS = st.one_of(st.sampled_from(WORDS), st.sampled_from(REFERENCES), st.text(max_size=8))
PATHS = st.lists(SEGMENTS, max_size=6).map(lambda segments: "/v2/" + "/".join(segments).replace("?", "%3F"))
QUERIES = st.one_of(
    st.sampled_from(["", f"?digest={digest_of(b'')}", "?digest=x", "?mount=x&from=y", "?entry=0", "?entry=x", "?n=1"]),
    st.text(max_size=12).map(lambda text: "?" + text),
)
HEADERS = st.dictionaries(
    st.sampled_from(
        ["content-range", "content-type", "range", "if-none-match", "if-range", "accept", "origin", "authorization"]
    ),
    st.text(max_size=20),
)
# Every way to authenticate, and every setting that changes an answer.
ALL_ON = {
    **VARIABLES,
    "ACCOUNTS_JSON": json.dumps(ACCOUNTS),
    "JWT_REGISTRY_TOKENS_PUBLIC_KEY": setting(jwk("ES256")),
    "BEARER_TOKENS": "true",
    "ANONYMOUS_PULL": "a, latest/**",
    "CORS_ORIGINS": "*",
    "SPARSE_MANIFESTS": "true",
}
CALLERS = st.tuples(
    st.sampled_from([SETTINGS, read_settings(ALL_ON.get)]),
    st.sampled_from([None, ("hello", "world"), ("ci", "generated")]),
)


@settings(max_examples=1000)
@given(
    METHODS,
    PATHS,
    QUERIES,
    HEADERS,
    st.one_of(st.binary(max_size=40), st.lists(st.binary(max_size=40), max_size=1)),
    CALLERS,
)
def test_no_request_makes_a_5xx(
    method: str,
    path: str,
    query: str,
    headers: dict[str, str],
    body: bytes | list[bytes],
    caller: tuple[Settings, tuple[str, str] | None],
) -> None:
    """Any method, path, query, headers and body, with or without a length, from any caller."""
    registry = FakeRegistry(settings=caller[0])
    answer = asyncio.run(registry.call(method, path + query, body, headers=headers, user=caller[1]))
    assert answer.status < 500, answer
    if answer.status >= 400:
        assert answer.codes
    else:
        assert registry.bucket.open_bodies == 0


async def test_an_unexpected_exception_is_a_plain_500(
    registry: FakeRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stack trace goes to the log, not to the client."""

    def fail(call: str, key: str) -> None:
        raise ZeroDivisionError("s3cret detail")

    registry.bucket.fail = fail
    answer = await registry.call("GET", "/v2/a/manifests/1")
    assert (answer.status, answer.codes) == (500, ["UNKNOWN"])
    assert b"s3cret" not in answer.body
    line, request = (json.loads(text) for text in capsys.readouterr().out.splitlines())
    assert line["event"] == "internal-error"
    assert "ZeroDivisionError" in line["trace"]
    assert "world" not in line["trace"]
    assert line["request"] == request["request"]


@pytest.mark.parametrize(("error", "status"), [(StorageError("R2 fell over"), 503), (StorageBusy("slow down"), 429)])
async def test_a_failing_bucket_is_told_with_retry_after(
    registry: FakeRegistry, error: StorageError, status: int
) -> None:
    """A failing bucket is 503 or 429 with Retry-After, never 500."""

    def fail(call: str, key: str) -> None:
        raise error

    registry.bucket.fail = fail
    answer = await registry.call("GET", "/v2/a/manifests/1")
    assert (answer.status, answer.codes) == (status, ["TOOMANYREQUESTS"])
    assert answer.headers["Retry-After"] == "1"
    assert str(error).encode() not in answer.body


@pytest.mark.parametrize("known", [True, False])
async def test_a_client_that_vanishes_changes_nothing(registry: FakeRegistry, known: bool) -> None:
    """After a reset during a chunk, the session keeps its offset and can continue."""
    started = await registry.call("POST", "/v2/a/blobs/uploads/")
    first = await registry.call("PATCH", started.location, b"01234")
    chunks: list[bytes | Exception] = [b"x" * 9_000_000, ClientGone("reset")]
    headers = {"Content-Range": "5-20000004"} if known else {}
    await registry.call("PATCH", first.location, chunks, headers=headers)
    status = await registry.call("GET", first.location)
    assert status.headers["Range"] == "0-4"
    assert registry.bucket.uploads == {}
    second = await registry.call("PATCH", status.location, b"56789")
    done = await registry.call("PUT", f"{second.location}&digest={digest_of(b'0123456789')}")
    assert done.status == 201


async def test_an_unwanted_body_is_read_before_the_answer(registry: FakeRegistry) -> None:
    """Without that, the client would see a broken connection instead of the answer."""
    read: list[int] = []

    def chunks() -> Iterator[bytes]:
        for index in range(10):
            read.append(index)
            yield b"x" * 100_000

    answer = await registry.call("PATCH", "/v2/a/blobs/uploads/nonsense", chunks())
    assert answer.codes == ["BLOB_UPLOAD_UNKNOWN"]
    assert len(read) == 10
