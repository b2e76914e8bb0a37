"""What operators use: request log, front page, health check and metrics."""

import json
import re
from typing import Any

import pytest

from registry.ports.storage import StorageError
from registry.settings import read_settings
from tests.fakes.client import VARIABLES, FakeRegistry, digest_of, with_query
from tests.images import push_image

ID = re.compile(r"[0-9a-f]{16}")
RAY = "8f2b5c0d1e3a4b6c"


class Points:
    """A dataset of Analytics Engine that keeps its data points."""

    def __init__(self) -> None:
        self.written: list[tuple[str, list[str], list[float]]] = []

    def write(self, index: str, blobs: list[str], doubles: list[float]) -> None:
        self.written.append((index, blobs, doubles))


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return the log lines since the last call."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


# ---------------------------------------------------------------------- the log
async def test_a_line_for_each_request(registry: FakeRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    """A log line has the account, the endpoint, the outcome, the bytes (of chunked bodies too) and the R2 calls."""
    data = bytes(range(256)) * 1024
    started = await registry.call("POST", "/v2/team/app/blobs/uploads/")
    patched = await registry.call("PATCH", started.location, [data[:1000], data[1000:]])
    digest = digest_of(data)
    capsys.readouterr()
    closed = await registry.call("PUT", with_query(patched.location, digest=digest))
    await registry.call("GET", f"/v2/team/app/blobs/{digest}", user=("reader", "looks-only"))
    (put, get) = lines(capsys)
    assert closed.status == 201
    assert put.pop("request") == closed.headers["X-Request-Id"]
    assert put.pop("class_a") >= 1
    assert put == {
        "event": "request",
        "method": "PUT",
        "endpoint": "CloseUpload",
        "repository": "team/app",
        "reference": digest,
        "status": 201,
        "received": 0,
        "sent": 0,
        "milliseconds": 0.0,
        "class_b": put["class_b"],
        "account": "hello",
    }
    assert (get["endpoint"], get["account"], get["sent"], get["class_a"], get["class_b"]) == (
        "GetBlob",
        "reader",
        len(data),
        0,
        1,
    )
    capsys.readouterr()
    started = await registry.call("POST", "/v2/team/app/blobs/uploads/")
    await registry.call("PATCH", started.location, [data[:1000], data[1000:]])
    assert [line["received"] for line in lines(capsys)] == [0, len(data)]


async def test_the_counts_are_those_of_the_bucket(registry: FakeRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    """The R2 calls in the log lines add up to the calls that the bucket received."""
    before = registry.bucket.usage.class_a, registry.bucket.usage.class_b
    await push_image(registry, "team/app", "1", [b"1", b"2", b"3"])
    await registry.call("GET", "/v2/team/app/manifests/1")
    told = lines(capsys)
    used = registry.bucket.usage
    assert used.class_a - before[0] == sum(line["class_a"] for line in told) > 0
    assert used.class_b - before[1] == sum(line["class_b"] for line in told) > 0


async def test_requests_that_meet_are_counted_apart(registry: FakeRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    """Concurrent requests each have their own id and their own count of R2 calls."""
    digest = await registry.push_blob("a", b"x")
    capsys.readouterr()
    for seed in range(20):
        await registry.at_once(
            seed,
            registry.call("GET", f"/v2/a/blobs/{digest}"),
            registry.call("GET", "/v2/"),
            registry.call("HEAD", f"/v2/a/blobs/{digest}"),
            registry.call("GET", "/v2/a/tags/list"),
        )
        told = {line["endpoint"]: line for line in lines(capsys)}
        calls = {endpoint: (line["class_a"], line["class_b"]) for endpoint, line in told.items()}
        assert calls == {"GetBlob": (0, 1), "CheckVersion": (0, 0), "HeadBlob": (0, 1), "ListTags": calls["ListTags"]}
        assert calls["ListTags"][0] >= 1
        assert len({line["request"] for line in told.values()}) == 4


async def test_the_id_of_a_request(registry: FakeRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    """The id is Cloudflare's, if it is valid. Text that a client invents does not get into the log."""
    for ray, expected in ((f"{RAY}-FRA", RAY), (RAY, RAY), ("x" * 16, None), (f'{RAY}"\n', None), ("", None)):
        answer = await registry.call("GET", "/v2/", headers={"cf-ray": ray})
        (line,) = lines(capsys)
        assert ID.fullmatch(answer.headers["X-Request-Id"])
        assert line["request"] == answer.headers["X-Request-Id"]
        assert expected in (None, line["request"])


async def test_errors_carry_the_id(registry: FakeRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    """The body has the request id. For server errors, the message has it too, because Docker shows only that."""
    answer = await registry.call("GET", "/v2/a/manifests/1")
    body = json.loads(answer.body)
    assert body["request"] == answer.headers["X-Request-Id"]
    assert body["request"] not in body["errors"][0]["message"]
    (line,) = lines(capsys)
    assert line["reason"] == "manifest unknown to registry"

    def fail(call: str, key: str) -> None:
        raise StorageError("R2 fell over")

    registry.bucket.fail = fail
    answer = await registry.call("GET", "/v2/a/manifests/1")
    body = json.loads(answer.body)
    assert answer.status == 503
    assert f"(request {body['request']})" in body["errors"][0]["message"]
    failed, line = lines(capsys)
    assert (failed["event"], failed["error"]) == ("storage-failed", "R2 fell over")
    assert failed["request"] == line["request"] == body["request"]
    assert line["class_b"] == 3  # retries are counted too


async def test_a_path_that_is_none_is_told_shortly(registry: FakeRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    """The log has an unknown path shortened, without its query and without upload session ids."""
    await registry.call("GET", "/v2/" + "x" * 5000 + "?password=s3cret")
    started = await registry.call("POST", "/v2/a/blobs/uploads/")
    session = started.location.rpartition("/")[2].partition("?")[0]
    await registry.call("GET", started.location)
    await registry.call("GET", started.location, user=None)
    printed = capsys.readouterr().out
    assert len(printed.splitlines()[0]) < 1000
    assert "s3cret" not in printed
    assert session not in printed


# ---------------------------------------------------------------------- the front page
@pytest.mark.parametrize("user", [None, ("hello", "world"), ("hello", "wrong")])
async def test_the_front_page(registry: FakeRegistry, user: tuple[str, str] | None) -> None:
    """The front page is public and tells how to log in at this host. It costs no R2 call."""
    answer = await registry.call("GET", "/", user=user, budget=0)
    assert answer.status == 200
    assert b"docker login registry.example\n" in answer.body
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "WWW-Authenticate" not in answer.headers
    assert (await registry.call("POST", "/", user=("hello", "world"))).status == 405


# ---------------------------------------------------------------------- health
async def test_health(registry: FakeRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    """200 while the bucket answers. R2 is called once in ten seconds, for any number of health checks."""
    for _ in range(5):
        answer = await registry.call("GET", "/healthz", user=None)
        assert (answer.status, json.loads(answer.body)) == (200, {"status": "ok"})
    assert registry.bucket.usage.class_b == 1
    assert registry.bucket.usage.class_a == 0

    def fail(call: str, key: str) -> None:
        raise StorageError("R2 fell over: s3cret")

    registry.bucket.fail = fail
    registry.clock.now += 10
    capsys.readouterr()
    answer = await registry.call("GET", "/healthz", user=None)
    assert (answer.status, json.loads(answer.body)) == (503, {"status": "the bucket does not answer"})
    assert [line["event"] for line in lines(capsys)] == ["unhealthy", "request"]
    registry.bucket.fail = lambda call, key: None
    registry.clock.now += 10
    assert (await registry.call("HEAD", "/healthz", user=None)).status == 200


# ---------------------------------------------------------------------- metrics
async def test_metrics_are_off_unless_asked_for(registry: FakeRegistry) -> None:
    """404 with advice for an allowed account; 401 for anonymous callers."""
    answer = await registry.call("GET", "/metrics")
    assert (answer.status, answer.codes) == (404, ["UNSUPPORTED"])
    assert (await registry.call("GET", "/metrics", user=None)).status == 401


async def test_prometheus() -> None:
    """The output is valid in Prometheus's format and counts the earlier requests."""
    registry = FakeRegistry(settings=read_settings({**VARIABLES, "PROMETHEUS": "true"}.get))
    digest = await registry.push_blob("a", b"abc")
    for _ in range(3):
        await registry.call("GET", f"/v2/a/blobs/{digest}")
    await registry.call("GET", "/v2/nothing", user=None)
    used = registry.bucket.usage
    answer = await registry.call("GET", "/metrics", user=("reader", "looks-only"))
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    text = answer.body.decode()
    assert text.endswith("\n")
    values = {}
    for line in text.splitlines():
        if line.startswith("#"):
            assert re.fullmatch(r"# (HELP|TYPE) registry_[a-z0-9_]+ \S.*", line), line
            continue
        sample = re.fullmatch(r'(registry_[a-z0-9_]+)\{isolate="[0-9a-f]{8}",([^}]*)\} ([0-9.e-]+)', line)
        assert sample is not None, line
        values[sample[1], sample[2]] = float(sample[3])
    assert values["registry_requests_total", 'endpoint="GetBlob",status="200"'] == 3
    assert values["registry_sent_bytes_total", 'endpoint="GetBlob",status="200"'] == 9
    assert values["registry_received_bytes_total", 'endpoint="CloseUpload",status="201"'] == 3
    assert values["registry_requests_total", 'endpoint="",status="401"'] == 1
    assert values["registry_r2_calls_total", 'class="A"'] == used.class_a
    assert values["registry_r2_calls_total", 'class="B"'] == used.class_b


async def test_data_points() -> None:
    """One data point for each request. The index is the repository, cut to Analytics Engine's limit."""
    points = Points()
    registry = FakeRegistry(points=points)
    name = "a/" + "b" * 120
    await registry.call("GET", f"/v2/{name}/manifests/1")
    await registry.call("GET", "/v2/", user=None)
    (index, blobs, doubles), stranger = points.written
    assert index == name[:96]
    assert blobs == ["GetManifest", "404", name, "hello"]
    assert doubles[2] > 0  # bytes of the error
    assert (doubles[1], *doubles[3:]) == (0, 0, 1, 0)
    assert all(isinstance(value, float) for value in doubles)
    assert stranger[:2] == ("", ["CheckVersion", "401", "", ""])


@pytest.mark.parametrize(
    "path", ["/v2/a/blobs/uploads/{}", "/v2/a/blobs/Uploads/{}/x", "/v2/a/blobs/%75ploads/{}", "/v2/uploads/{}/y"]
)
async def test_no_session_is_named_in_the_log(
    registry: FakeRegistry, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    """No log line has an upload session id, which is as good as a password; not even for invalid requests."""
    started = await registry.call("POST", "/v2/a/blobs/uploads/")
    session = started.location.rpartition("/")[2]
    for method in ("PUT", "PATCH", "BREW"):
        await registry.call(method, path.format(session), b"x")
        await registry.call(method, path.format(session) + "?entry=x", b"x")
    assert session not in capsys.readouterr().out


async def test_head_of_the_version(registry: FakeRegistry) -> None:
    """HEAD is like GET, without a body."""
    assert (await registry.call("HEAD", "/v2/")).status == 200
    assert (await registry.call("HEAD", "/v2/", user=None)).status == 401


async def test_the_public_url() -> None:
    """Behind a proxy that terminates TLS: realm, front page and origin check use the public name."""
    settings = read_settings({**VARIABLES, "BEARER_TOKENS": "true", "PUBLIC_URL": "https://outside.example"}.get)
    registry = FakeRegistry(settings=settings)
    challenge = (await registry.call("GET", "/v2/", user=None)).headers["WWW-Authenticate"]
    assert 'realm="https://outside.example/v2/token",service="outside.example"' in challenge
    assert b"docker login outside.example" in (await registry.call("GET", "/")).body
    page = {"origin": "https://outside.example"}
    assert (await registry.call("POST", "/v2/a/blobs/uploads/", headers=page)).status == 202


async def test_no_token_and_public_repositories() -> None:
    """Homebrew's placeholder token counts as no credentials. The catalogue asks browsers for a password."""
    registry = FakeRegistry(settings=read_settings({**VARIABLES, "ANONYMOUS_PULL": "public/**"}.get))
    nobody = {"authorization": "Bearer QQ=="}
    assert (await registry.call("GET", "/v2/public/a/manifests/1", user=None, headers=nobody)).status == 404
    assert (await registry.call("GET", "/v2/private/manifests/1", user=None, headers=nobody)).status == 401
    asked = await registry.call("GET", "/v2/_catalog", user=None)
    assert (asked.status, asked.headers["WWW-Authenticate"].partition(" ")[0]) == (401, "Basic")
    pulled = await registry.call("GET", "/v2/public/a/manifests/1", user=None)
    assert pulled.status == 404
