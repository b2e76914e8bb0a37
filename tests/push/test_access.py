"""Tests of docker's and podman's credentials, token servers, names of images, and the command line."""

import base64
import io
import json
import re
import socket
import tomllib
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry_push.authentication import AsGiven, Authentication
from registry_push.client import Client, new_http
from registry_push.command import INTERRUPTED, main
from registry_push.credentials import Credentials, find
from registry_push.failures import Failure, Misused, Refused, Unreachable
from registry_push.progress import Bars
from registry_push.references import parse_registry, parse_target
from registry_push.retries import Retries
from registry_push.token_servers import TokenServers

TOKEN_SERVERS = TokenServers(parse_registry("r.example", insecure=False), frozenset({"auth.example"}))
ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024
GIB = 1024 * MIB


def encoded(name: str, password: str) -> str:
    """The `auth` value of a configuration file."""
    return base64.b64encode(f"{name}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"auths": {"r.example": {"auth": encoded("ann", "pw")}}}, Credentials("ann", "pw")),
        ({"auths": {"https://r.example/v1/": {"auth": encoded("ann", "p:w")}}}, Credentials("ann", "p:w")),
        ({"auths": {"r.example": {"auth": encoded("x", ""), "identitytoken": "t"}}}, Credentials("x", "", "t")),
        (
            {"auths": {"r.example": {"auth": encoded("a", "1")}, "r.example/team": {"auth": encoded("b", "2")}}},
            Credentials("b", "2"),
        ),
        ({"auths": {"other.example": {"auth": encoded("ann", "pw")}}}, None),
        ({"auths": {}, "credHelpers": {"r.example": "mine"}}, Credentials("helped", "by r.example")),
        ({"credsStore": "mine"}, Credentials("helped", "by r.example")),
        ({}, None),
    ],
)
def test_files(content: object, expected: Credentials | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All notations of docker and podman are found; the most specific entry wins."""
    helper = tmp_path / "docker-credential-mine"
    helper.write_text('#!/bin/sh\nread name\necho "{\\"Username\\": \\"helped\\", \\"Secret\\": \\"by $name\\"}"\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert find("r.example", "team/app", {"HOME": "/nowhere", "DOCKER_CONFIG": str(tmp_path)}) == expected


def test_the_environment_comes_first(tmp_path: Path) -> None:
    """REGISTRY_USERNAME and REGISTRY_PASSWORD are used; no repr has the password."""
    environment = {"HOME": str(tmp_path), "REGISTRY_USERNAME": "ann", "REGISTRY_PASSWORD": "secret-of-ann"}
    found = find("r.example", "app", environment)
    assert found == Credentials("ann", "secret-of-ann")
    assert "secret-of-ann" not in repr(found)


def test_a_missing_helper(tmp_path: Path) -> None:
    """The message names the missing helper."""
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {"r.example": "no-such"}}))
    with pytest.raises(Misused, match="docker-credential-no-such"):
        find("r.example", "app", {"HOME": "/nowhere", "DOCKER_CONFIG": str(tmp_path)})


def test_a_malformed_file(tmp_path: Path) -> None:
    """The message names the file."""
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(Misused, match=r"config\.json"):
        find("r.example", "app", {"HOME": "/nowhere", "DOCKER_CONFIG": str(tmp_path)})


def token_server(request: httpx.Request) -> httpx.Response:
    """Issue a token of 20 seconds for ann's password or for an identity token."""
    form = httpx.QueryParams(request.content.decode())
    known = form.get("refresh_token") == "identity"
    if request.headers.get("authorization") != "Basic " + encoded("ann", "pw") and not known:
        return httpx.Response(401)
    scopes = form.get("scope") or " ".join(request.url.params.get_list("scope"))
    return httpx.Response(200, json={"token": f"for-{scopes}", "expires_in": 20})


@pytest.mark.parametrize("credentials", [Credentials("ann", "pw"), Credentials(identity_token="identity")])
async def test_bearer(credentials: Credentials) -> None:
    """The token has the scopes of the run."""
    http = httpx.AsyncClient(transport=httpx.MockTransport(token_server))
    authentication = Authentication(http, credentials, ["repository:a:pull,push"], TOKEN_SERVERS)
    challenge = 'Bearer realm="https://auth.example/token",service="r, the first"'
    refusal = httpx.Response(401, headers={"WWW-Authenticate": challenge}, request=httpx.Request("GET", "https://r"))
    assert await authentication.header() is None
    assert await authentication.answer(refusal, None)
    assert await authentication.header() == "Bearer for-repository:a:pull,push"


@pytest.mark.parametrize(
    "challenge",
    ['Bearer realm="https://auth.example/token"', 'Bearer realm="http://auth.example/token"', "Digest x=y", "Basic"],
)
async def test_refusals(challenge: str) -> None:
    """No token, a token server without TLS, an unknown scheme, a wrong password: no message has the password."""
    http = httpx.AsyncClient(transport=httpx.MockTransport(token_server))
    authentication = Authentication(http, Credentials("bob", "secret-of-bob"), [], TOKEN_SERVERS)
    refusal = httpx.Response(401, headers={"WWW-Authenticate": challenge}, request=httpx.Request("GET", "https://r"))

    async def twice() -> None:
        for _ in range(2):
            await authentication.answer(refusal, await authentication.header())

    with pytest.raises(Refused) as caught:
        await twice()
    assert "secret-of-bob" not in str(caught.value)


async def test_anonymous_refusals() -> None:
    """Without credentials the message says how to log in."""
    http = httpx.AsyncClient(transport=httpx.MockTransport(token_server))
    authentication = Authentication(http, None, ["repository:a:pull,push"], TOKEN_SERVERS)
    challenge = {"WWW-Authenticate": 'Bearer realm="https://auth.example/token"'}
    refusal = httpx.Response(401, headers=challenge, request=httpx.Request("GET", "https://r"))
    with pytest.raises(
        Refused, match="refused a token for repository:a:pull,push without credentials: run `docker login"
    ):
        await authentication.answer(refusal, None)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("r.example/team/app:1", "https://r.example"),
        ("localhost:5000/app", "http://localhost:5000"),
        ("127.0.0.1:5000/app:x", "http://127.0.0.1:5000"),
        ("https://localhost:5000/app", "https://localhost:5000"),
        ("[::1]:5000/app", "http://[::1]:5000"),
        ("app.localhost:5000/app", "https://app.localhost:5000"),
        ("localhost.example/app", "https://localhost.example"),
        ("docker.io/me/app:1", "https://registry-1.docker.io"),
    ],
)
def test_targets(text: str, url: str) -> None:
    """The scheme is https, but http on loopback."""
    assert parse_target(text, insecure=False).registry.origin == url


@pytest.mark.parametrize(
    "text",
    ["app:1", "team/app", "r.example/App", "r.example/a@sha256:b", "r.example/a:-", "http://r.example/a"],
)
def test_no_targets(text: str) -> None:
    """A target that names no tag of a registry, or would send a password over plain HTTP, is refused."""
    with pytest.raises(Misused):
        parse_target(text, insecure=False)


def test_insecure() -> None:
    """With --insecure the scheme is http."""
    assert parse_registry("r.example", insecure=True).origin == "http://r.example"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["app:1"], "does not name a registry"),
        (["r.example/app:1", "--level", "10"], "gzip has levels 1 to 9"),
        (["r.example/app:1", "--username", "x"], "must be used together"),
        (["r.example/app:1", "--from", "oci:/nowhere"], "no such folder"),
        (["proxy", "--to", "r.example", "--listen", "5000"], "pass an address and a port"),
        (["proxy", "--to", "r.example/path"], "not the address of a registry"),
    ],
)
def test_the_command(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Invalid usage gives exit code 2 and a message on standard error; with --json on standard output."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(arguments) == Misused.exit_code
    assert words in capsys.readouterr().err
    if arguments[0] != "proxy":
        assert main([*arguments, "--json"]) == Misused.exit_code
        assert words in json.loads(capsys.readouterr().out.splitlines()[-1])["message"]


def test_ctrl_c(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a push can be resumed by the same command; a proxy was just stopped."""

    def interrupted(running: Coroutine[Any, Any, None]) -> None:
        running.close()
        raise KeyboardInterrupt

    monkeypatch.setattr("asyncio.run", interrupted)
    assert main(["r.example/app:1"]) == INTERRUPTED
    assert "run the same command to resume" in capsys.readouterr().err
    assert main(["proxy", "--to", "r.example"]) == INTERRUPTED
    assert capsys.readouterr().err == "registry-push: the proxy was stopped\n"


async def no_pause(seconds: float) -> None:
    """Retry without waiting."""


class Failing(httpx.AsyncBaseTransport):
    """A network without any host, which gives the next of these errors, and after the last one answers."""

    def __init__(self, *errors: OSError) -> None:
        self.errors = list(errors)
        self.asked = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:  # noqa: ARG002 - the interface's
        """Raise the next error."""
        self.asked += 1
        if self.errors:
            raise httpx.ConnectError("no connection") from self.errors.pop(0)
        return httpx.Response(200)


UNKNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
NO_DNS = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


@pytest.mark.parametrize(
    ("error", "asked", "words"),
    [
        (UNKNOWN, 1, "there is no host r.example"),
        (NO_DNS, 3, "GET https://r.example/v2/: no connection, tried 3 times"),
        (ConnectionRefusedError(), 3, "GET https://r.example/v2/: no connection, tried 3 times"),
    ],
)
async def test_a_host_that_has_never_answered(error: OSError, asked: int, words: str) -> None:
    """The message names the host, after few tries, which are reported."""
    network = Failing(*[error] * 20)
    said: list[str] = []
    async with new_http(network) as http:
        client = Client(http, "https://r.example", AsGiven(None), Retries(8, no_pause, said.append))
        with pytest.raises(Unreachable, match=re.escape(words)):
            await client.check()
    assert network.asked == asked
    assert len(said) == max(0, asked - 2)


@pytest.mark.parametrize("error", [UNKNOWN, ConnectionRefusedError()])
async def test_a_host_that_has_answered(error: OSError) -> None:
    """After its first answer a host gets all retries: the network is down, and comes back."""
    network = Failing()
    async with new_http(network) as http:
        client = Client(http, "https://r.example", AsGiven(None), Retries(8, no_pause))
        await client.check()
        network.errors = [error] * 8
        assert (await client.ask("GET", "/v2/")).status_code == 200


async def test_not_a_registry() -> None:
    """A web server that answers 404 is reported before the image is read."""
    async with new_http(httpx.MockTransport(lambda request: httpx.Response(404))) as http:
        with pytest.raises(Misused, match=r"www\.example is not a registry"):
            await Client(http, "https://www.example", AsGiven(None), Retries(8, no_pause)).check()


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints the version of the package."""
    version = tomllib.loads((ROOT / "push/pyproject.toml").read_text())["project"]["version"]
    for arguments in (["--version"], ["proxy", "--version"]):
        with pytest.raises(SystemExit) as exited:
            main(arguments)
        assert exited.value.code == 0
        assert capsys.readouterr().out == f"registry-push {version}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["proxy", "--help"]])
def test_the_help_has_examples(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The examples of --help parse, and do not wrap."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(arguments)
    text = capsys.readouterr().out
    assert "  registry-push " in text
    assert max(map(len, text.splitlines())) <= 80


def test_bars_fit_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """No bar wraps, also with the largest sizes; the speed of a resumed upload leaves out the earlier run."""
    seconds = iter(range(1000))
    monkeypatch.setattr("rich.console.monotonic", lambda: float(next(seconds)))
    monkeypatch.setenv("COLUMNS", "80")
    errors = io.StringIO()
    bars = Bars(io.StringIO(), errors)
    bars.begin("compress 0123456789ab", 999 * GIB)
    bars.resumed("compress 0123456789ab", 500 * GIB)
    for _ in range(5):
        bars.advance("compress 0123456789ab", 900 * MIB)
    bars.begin("docker save", None)
    bars.advance("docker save", 7)
    bars.begin("push 0123456789ab", 1)
    bars.end("push 0123456789ab", "pushed")
    bars.close()
    [running, saving, done] = errors.getvalue().splitlines()
    assert re.search(r" 504\.4 GiB/999\.0 GiB \d+\.\d MiB/s \d+:\d\d *$", running)
    assert re.search(r"^docker save .* 7 B *$", saving)
    assert re.search(r"^push 0123456789ab .* 1 B pushed *$", done)
    assert all(len(line) <= 80 for line in (running, saving, done))


def test_bars() -> None:
    """A task that needs no bytes is a line with its outcome instead of a bar."""
    errors = io.StringIO()
    bars = Bars(io.StringIO(), errors)
    bars.begin("push a", 0)
    bars.end("push a", "pushed")
    bars.end("push b", "exists already")
    bars.close()
    assert "push b: exists already\n" in errors.getvalue()
    assert "1/1" not in errors.getvalue()


def test_every_option_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/push.md has each option, and each exit code."""
    page = (ROOT / "docs/push.md").read_text()
    for arguments in (["--help"], ["proxy", "--help"]):
        with pytest.raises(SystemExit):
            main(arguments)
        options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
        assert options
        for option in options:
            assert option in page, option
    for code in {Failure.exit_code, *(kind.exit_code for kind in Failure.__subclasses__())}:
        assert f"| {code} |" in page
