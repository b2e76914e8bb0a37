"""Credentials where docker and podman keep them: configuration files, credential helpers, and the environment."""

import base64
import binascii
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry_push.failures import Misused

# What docker's helpers answer instead of a name when the secret is an identity token.
_IDENTITY_TOKEN_USER = "<token>"  # noqa: S105 - docker-credential-helpers' mark
_NOT_FOUND = "credentials not found"
_HELPER_SECONDS = 60  # a helper may ask the person
# Docker keeps the credentials of its own registry under this name.
_ALIASES = {"registry-1.docker.io": ("https://index.docker.io/v1/", "docker.io", "index.docker.io")}


@dataclass(frozen=True, slots=True)
class Credentials:
    """A name and a password, or an identity token in place of both."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def find(host: str, repository: str, environment: Mapping[str, str]) -> Credentials | None:
    """The credentials for a repository: of the environment, else of the first file that has any.

    Raises Misused when a file or helper that should have them cannot be read.
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
        content = json.loads(path.read_bytes())
        entries, helpers = content.get("auths") or {}, content.get("credHelpers") or {}
        store = content.get("credsStore")
        for name in _names(host, repository):
            helper = helpers.get(name) or (store if name == host or name in entries else None)
            found = _from_helper(str(helper), name) if helper else None
            found = found or _from_entry(entries.get(name) or {})
            if found is not None:
                return found
    except (OSError, ValueError, AttributeError, binascii.Error) as error:
        raise Misused(f"{path}: not a file with credentials as docker or podman writes it ({error})") from None
    return None


def _names(host: str, repository: str) -> Iterator[str]:
    """What an entry may be called, the closest first: podman's may be for a part of a registry."""
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
    """Ask a credential helper: the server's name on its standard input, JSON on its output."""
    program = f"docker-credential-{helper}"
    try:
        result = subprocess.run(  # noqa: S603 - the person's own configuration names it
            [program, "get"], input=name, capture_output=True, text=True, timeout=_HELPER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Misused(f"{program}: the credential helper of the configuration does not run ({error})") from None
    if result.returncode != 0:
        if _NOT_FOUND in result.stdout + result.stderr:
            return None
        raise Misused(f"{program}: {(result.stderr or result.stdout).strip() or 'failed without a message'}")
    answer = json.loads(result.stdout)
    if answer["Username"] == _IDENTITY_TOKEN_USER:
        return Credentials(identity_token=answer["Secret"])
    return Credentials(answer["Username"], answer["Secret"]) if answer["Secret"] else None
