"""The runtime ends a request that used its CPU time by what is no `Exception`, and leaves it a moment."""

import json
from collections.abc import Callable
from dataclasses import asdict

import pytest

from registry import collection, keys
from registry.garbage import Mode, Rules
from registry.names import parse_name
from registry.storage import NO_ATTRIBUTES
from registry.upkeep import Upkeep
from tests.fakes.client import FakeRegistry, digest_of
from tests.test_upkeep import one_pass, one_tick, with_settings


class CpuLimitExceeded(BaseException):
    """As the runtime's, whose module has no name that one could import."""


def once(wanted: str) -> Callable[[str, str], None]:
    """Raise at the first R2 call of that name, or with that key."""
    is_over = False

    def fail(call: str, key: str) -> None:
        nonlocal is_over
        if wanted in (call, key) and not is_over:
            is_over = True
            raise CpuLimitExceeded("Python Worker exceeded CPU time limit")

    return fail


def events(capsys: pytest.CaptureFixture[str], event: str) -> list[dict[str, object]]:
    """The lines of the log about an event."""
    lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    return [line for line in lines if line["event"] == event]


async def test_the_client_is_told(registry: FakeRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    """503, and lines that say what was asked and where it went; the registry goes on."""
    registry.bucket.fail = once("get")
    answer = await registry.call("GET", "/v2/a/manifests/1")
    assert (answer.status, answer.codes) == (503, ["TOOMANYREQUESTS"])
    assert b"limits.cpu_ms" in answer.body
    assert answer.headers["Retry-After"]
    output = capsys.readouterr().out
    line, request = (json.loads(text) for text in output.splitlines())
    assert line["event"] == "cpu-limit"
    assert "CpuLimitExceeded" in line["trace"]
    assert (request["repository"], request["reference"], request["status"]) == ("a", "1", 503)
    assert (await registry.call("GET", "/v2/a/manifests/1")).status == 404


async def test_what_else_is_no_exception_passes(registry: FakeRegistry) -> None:
    """A task that is cancelled stays cancelled."""

    def fail(call: str, key: str) -> None:
        raise KeyboardInterrupt

    registry.bucket.fail = fail
    with pytest.raises(KeyboardInterrupt):
        await registry.call("GET", "/v2/a/manifests/1")


@pytest.mark.parametrize("call", ["upload_part", "put"])
@pytest.mark.parametrize("known", [True, False])
async def test_an_upload_is_tidied_and_goes_on(registry: FakeRegistry, call: str, known: bool) -> None:
    """The chunk's multipart upload is given up, and the session stands where it stood."""
    started = await registry.call("POST", "/v2/a/blobs/uploads/")
    first = await registry.call("PATCH", started.location, b"01234")
    registry.bucket.fail = once(call)
    headers = {"Content-Range": "5-9000004"} if known else {}
    chunk = b"x" * 9_000_000
    answer = await registry.call("PATCH", first.location, chunk if known else [chunk], headers=headers)
    assert answer.status == 503
    assert registry.bucket.uploads == {}
    status = await registry.call("GET", first.location)
    assert status.headers["Range"] == "0-4"
    second = await registry.call("PATCH", status.location, b"56789")
    done = await registry.call("PUT", f"{second.location}&digest={digest_of(b'0123456789')}")
    assert done.status == 201


async def test_the_clock_goes_on_behind_what_was_too_much(capsys: pytest.CaptureFixture[str]) -> None:
    """A repository that takes more than there is stops no other."""
    registry = with_settings(GC_MODE="unreferenced")
    for name in "abc":
        await registry.push_blob(name, b"orphan")
    registry.bucket.fail = once("b/manifests/")
    await one_pass(registry)
    assert [name for name in "abc" if registry.bucket.keys(f"{name}/blobs/")] == ["b"]
    (line,) = events(capsys, "upkeep-failed")
    assert line["cursor"] == "b"


async def test_a_collection_that_is_too_much_is_not_met_again() -> None:
    """One that goes over several ticks ends, and what was noted of it is freed."""
    registry = with_settings(GC_MODE="unreferenced")
    await registry.push_blob("a", b"orphan")
    platform = registry.registry.platform
    begun = collection.begin(platform, parse_name("a"), Rules(Mode.UNREFERENCED, grace=0))
    await collection.save(platform, begun)
    state = Upkeep(began=platform.now(), stage="repositories", cursor="a", run=begun.id)
    registry.bucket.seed(keys.CRON, json.dumps(asdict(state)).encode(), NO_ATTRIBUTES, None)
    run = keys.gc_run(state.run)

    def fail(call: str, key: str) -> None:
        if key not in (run, keys.CRON):
            raise CpuLimitExceeded

    registry.bucket.fail, healthy = fail, registry.bucket.fail
    assert not (await one_tick(registry)).run
    assert not registry.bucket.keys(run)
    registry.bucket.fail = healthy
    await one_pass(registry)
