"""Tests of `registry-token`: the registry accepts its keys, tokens and hashes."""

import io
import json
import stat
from pathlib import Path

import pytest

from registry.settings import read_settings
from registry_token import command
from tests.fakes.client import FakeRegistry


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """The path of a private key that does not exist yet."""
    return tmp_path / "key.json"


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """Run a command; returns its standard output."""
    assert command.main(arguments) == code, capsys.readouterr().err
    return capsys.readouterr().out.strip()


def stdin(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Set the standard input of the next command."""
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "RS256", "PS256", "EdDSA"])
async def test_a_key_and_a_token(algorithm: str, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A registry with keygen's output as its setting accepts issue's tokens."""
    public = run(capsys, "keygen", "--private-key", str(key), "--algorithm", algorithm)
    token = run(capsys, "issue", "--private-key", str(key), "--allow", "push,pull", "--repository", "team/*")
    variables = {"JWT_REGISTRY_TOKENS_PUBLIC_KEY": public}
    registry = FakeRegistry(settings=read_settings(variables.get))
    registry.clock.now = json.loads(run_inspect(capsys, token))["claims"]["iat"]
    assert (await registry.call("POST", "/v2/team/app/blobs/uploads/", user=("x", token))).status == 202
    assert (await registry.call("POST", "/v2/other/blobs/uploads/", user=("x", token))).status == 403
    registry.clock.now += 3600 + 30
    assert (await registry.call("GET", "/v2/", user=("x", token))).status == 401


def run_inspect(capsys: pytest.CaptureFixture[str], token: str, *arguments: str, code: int = 0) -> str:
    """Run `inspect` on a token."""
    with pytest.MonkeyPatch.context() as patch:
        stdin(patch, token)
        return run(capsys, "inspect", *arguments, code=code)


def test_a_key_is_not_overwritten(key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An existing key is not overwritten, since its tokens would become invalid."""
    run(capsys, "keygen", "--private-key", str(key))
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes()
    run(capsys, "keygen", "--private-key", str(key), code=1)
    assert key.read_bytes() == before


def test_issue(key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tokens have the claims of serverless-registry and our own; the default is pull, for an hour."""
    run(capsys, "keygen", "--private-key", str(key))
    claims = json.loads(run_inspect(capsys, run(capsys, "issue", "--private-key", str(key))))["claims"]
    assert claims == {"username": "token", "capabilities": ["pull"], "iat": claims["iat"], "exp": claims["iat"] + 3600}
    arguments = ("--user", "ci", "--allow", "delete", "--expires", "2d", "--audience", "https://r", "--repository", "a")
    claims = json.loads(run_inspect(capsys, run(capsys, "issue", "--private-key", str(key), *arguments)))["claims"]
    assert claims["exp"] - claims["iat"] == 2 * 86400
    assert (claims["username"], claims["aud"], claims["capabilities"]) == ("ci", "https://r", ["delete"])
    assert claims["access"] == [{"type": "repository", "name": "a", "actions": ["delete"]}]


def test_inspect_verifies(key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`inspect` refuses a token of another key, an expired one and a malformed one."""
    public = tmp_path / "public.txt"
    public.write_text(run(capsys, "keygen", "--private-key", str(key)))
    other = tmp_path / "other.json"
    run(capsys, "keygen", "--private-key", str(other))
    token = run(capsys, "issue", "--private-key", str(key), "--expires", "1s")
    run_inspect(capsys, token, "--public-key", str(public))
    foreign = run(capsys, "issue", "--private-key", str(other))
    run_inspect(capsys, foreign, "--public-key", str(public), code=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.time", lambda: 4_000_000_000.0)
        run_inspect(capsys, token, code=1)
    run_inspect(capsys, "nonsense", code=1)


@pytest.mark.parametrize("arguments", [("--allow", "admin"), ("--expires", "1"), ("--expires", "0h")])
def test_wrong_arguments(key: Path, arguments: tuple[str, str]) -> None:
    """Invalid arguments end with exit code 2."""
    with pytest.raises(SystemExit) as exit_:
        command.main(["issue", "--private-key", str(key), *arguments])
    assert exit_.value.code == 2


@pytest.mark.parametrize("content", [None, "", "{}", '{"alg": "ES256"}', '{"alg": "none", "kid": ""}', "[]"])
def test_an_invalid_key_file(key: Path, content: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    """An invalid key file gives exit code 1 and a message, not a stack trace."""
    if content is not None:
        key.write_text(content)
    run(capsys, "issue", "--private-key", str(key), code=1)


async def test_hashes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The registry accepts a generated token and a password by their hashes."""
    generated = dict(line.split() for line in run(capsys, "hash", "--generate").splitlines())
    stdin(monkeypatch, "pässword\n")
    stretched = run(capsys, "hash").split()[1]
    accounts = [
        {"name": name, "secret": secret, "permissions": {"**": ["pull"]}}
        for name, secret in (("ci", generated["secret:"]), ("ann", stretched))
    ]
    registry = FakeRegistry(settings=read_settings({"ACCOUNTS_JSON": json.dumps(accounts)}.get))
    assert (await registry.call("GET", "/v2/", user=("ci", generated["token:"]))).status == 200
    assert (await registry.call("GET", "/v2/", user=("ann", "pässword"))).status == 200
    stdin(monkeypatch, "\n")
    run(capsys, "hash", code=1)
