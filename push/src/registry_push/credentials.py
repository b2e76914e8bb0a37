"""Finds credentials in the environment, and in docker's and podman's configuration files and credential helpers."""

import base64
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry_push.failures import Misused
from registry_push.untrusted_json import LARGEST_DOCUMENT, read_json, read_json_file

# Docker's helpers answer this in place of a user name when the secret is an identity token.
_IDENTITY_TOKEN_USER = "<token>"  # noqa: S105 - a marker of docker-credential-helpers
_SECRET = "Secret"  # noqa: S105 - the name of a field
_NOT_FOUND = "credentials not found"
_LONGEST_COMPLAINT = 1000  # bytes of a failing helper's error message
_HELPER_SECONDS = 60  # long, since a helper may prompt the user
# Docker keeps the credentials of its own registry under this name.
_ALIASES = {"registry-1.docker.io": ("https://index.docker.io/v1/", "docker.io", "index.docker.io")}


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and a password, or an identity token in place of both."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of the Authorization header for Basic authentication."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def find(host: str, repository: str, environment: Mapping[str, str]) -> Credentials | None:
    """The credentials for a repository: those of the environment, else of the first file that has any.

    Raises Misused when a file cannot be read or a helper fails.
    """
    if "REGISTRY_USERNAME" in environment:
        return Credentials(environment["REGISTRY_USERNAME"], environment.get("REGISTRY_PASSWORD", ""))
    for path in _files(environment):
        if path.is_file() and (found := _in_file(path, host, repository)) is not None:
            return found
    return None


def _files(environment: Mapping[str, str]) -> Iterator[Path]:
    home = Path(environment.get("HOME") or Path.home())
    if "REGISTRY_AUTH_FILE" in environment:
        yield Path(environment["REGISTRY_AUTH_FILE"])
    if "XDG_RUNTIME_DIR" in environment:
        yield Path(environment["XDG_RUNTIME_DIR"]) / "containers/auth.json"
    yield Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json"
    yield Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json"


def _in_file(path: Path, host: str, repository: str) -> Credentials | None:
    try:
        content = read_json_file(path)
        entries, helpers = content.get("auths") or {}, content.get("credHelpers") or {}
        store = content.get("credsStore")
        for name in _names(host, repository):
            helper = helpers.get(name) or (store if name == host or name in entries else None)
            found = _from_helper(str(helper), name) if helper else None
            found = found or _from_entry(entries.get(name) or {})
            if found is not None:
                return found
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise Misused(f"{path} is not a credentials file as docker or podman writes it ({error})") from None
    return None


def _names(host: str, repository: str) -> Iterator[str]:
    """The keys of a matching entry, the most specific first: podman's entries may name a part of a registry."""
    segments = [host, *repository.split("/")]
    for count in range(len(segments), 0, -1):
        yield "/".join(segments[:count])
    yield from (f"https://{host}", f"http://{host}", f"https://{host}/v1/", f"https://{host}/v2/")
    yield from _ALIASES.get(host, ())


def _from_entry(entry: Mapping[str, Any]) -> Credentials | None:
    username, password = entry.get("username") or "", entry.get("password") or ""
    if encoded := entry.get("auth"):
        username, _, password = base64.b64decode(encoded, validate=True).decode().rstrip("\0").partition(":")
    token = entry.get("identitytoken") or ""
    return Credentials(username, password, token) if password or token else None


def _from_helper(helper: str, name: str) -> Credentials | None:
    """Ask a credential helper. It reads the server's name from standard input and writes JSON to standard output."""
    program = f"docker-credential-{helper}"
    code, output, complaints = _run(program, name)
    if code != 0:
        # Helpers write errors to either output. An output with a secret in it is not repeated.
        words = (complaints + output[:_LONGEST_COMPLAINT]).decode(errors="replace").strip()
        if _NOT_FOUND in words:
            return None
        is_telling = words and _SECRET not in words
        raise Misused(f"{program}: {words if is_telling else f'failed with exit code {code}'}")
    try:
        answer = read_json(output)
        username, secret = str(answer["Username"]), str(answer[_SECRET])
    except (ValueError, KeyError, TypeError) as error:
        raise Misused(f"{program}: the output has no credentials in the format of docker's helpers ({error})") from None
    if username == _IDENTITY_TOKEN_USER:
        return Credentials(identity_token=secret)
    return Credentials(username, secret) if secret else None


def _run(program: str, name: str) -> tuple[int, bytes, bytes]:
    """Run a helper; its exit code, standard output and standard error, each up to a limit."""
    with tempfile.TemporaryFile() as complaints:
        try:
            process = subprocess.Popen(  # noqa: S603 - the user's own configuration names it
                [program, "get"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints
            )
        except OSError as error:
            raise Misused(
                f"{program}: cannot run this credential helper, which the configuration names ({error})"
            ) from None
        with process, _killed_after(_HELPER_SECONDS, process):
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(BrokenPipeError):
                process.stdin.write(name.encode())
                process.stdin.close()
            output = process.stdout.read(LARGEST_DOCUMENT + 1)
            if len(output) > LARGEST_DOCUMENT:
                process.kill()
            code = process.wait()
        complaints.seek(0)
        return code, output, complaints.read(_LONGEST_COMPLAINT)


@contextmanager
def _killed_after(seconds: float, process: subprocess.Popen[bytes]) -> Iterator[None]:
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
