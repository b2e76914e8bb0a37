"""Tests of docker's and podman's credentials, token servers, names of images, and the command line."""

import base64
import io
import json
import re
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry_push.authentication import Authentication
from registry_push.command import INTERRUPTED, main
from registry_push.credentials import Credentials, find
from registry_push.failures import Failure, Misused, Refused
from registry_push.progress import Bars
from registry_push.references import parse_registry, parse_target
from registry_push.token_servers import TokenServers

TOKEN_SERVERS = TokenServers(parse_registry("r.example", insecure=False), frozenset({"auth.example"}))
ROOT = Path(__file__).parents[2]


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
