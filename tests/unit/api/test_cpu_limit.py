"""The runtime ends a request that used its CPU time by what is no `Exception`, and leaves it a moment."""

import json
from collections.abc import Callable

import pytest

from tests.fakes.client import FakeRegistry, digest_of
from tests.unit.upkeep.test_cron import one_pass, with_settings


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


async def test_the_cleanup_goes_on_behind_what_was_too_much(capsys: pytest.CaptureFixture[str]) -> None:
    """A repository that takes more CPU time than a tick has gets one more tick, and stops no other repository."""
    registry = with_settings(GC_MODE="unreferenced")
    for name in "abc":
        await registry.push_blob(name, b"orphan")

    def fail(call: str, key: str) -> None:
        if key == "b/_gc":
            raise CpuLimitExceeded

    registry.bucket.fail = fail
    await one_pass(registry)
    assert [name for name in "abc" if registry.bucket.keys(f"{name}/blobs/")] == ["b"]
    assert [line["where"] for line in events(capsys, "upkeep-failed")] == ["b", "b"]
