"""The registry that the clients talk to: the project's local runtime, or one that runs already."""

import json
import os
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .processes import Client, Server

ROOT = Path(__file__).parents[2]

# `make` tells its own children about itself through these: `make serve` is not a part of this run.
MAKE_VARIABLES = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")


@dataclass(frozen=True, slots=True)
class User:
    """A name and a password that the registry knows, or should not know."""

    name: str
    password: str

    @property
    def credentials(self) -> str:
        """Return them as skopeo's --creds takes them."""
        return f"{self.name}:{self.password}"


WRITER = User("hello", "world")
READER = User(
    os.environ.get("READONLY_USERNAME", "reader"),
    os.environ.get("READONLY_PASSWORD", "looks-only"),
)
STRANGER = User("hello", "not-the-password")
# An account of ACCOUNTS_JSON, which may do everything below team/.
PERSON = User("ann", "correct horse battery staple")


@dataclass(frozen=True, slots=True)
class Registry:
    """Where the registry is, and where it counts its requests, if it does."""

    host: str
    stats_url: str | None = None

    @contextmanager
    def receives_no_blob(self) -> Iterator[None]:
        """Assert that no upload session is used while the block runs, if the registry counts."""
        with self.requests() as requests:
            yield
        uploads = [name for name in requests if "/blobs/uploads/" in name]
        assert not uploads, f"blobs were uploaded again: {uploads}"

    @contextmanager
    def counted(self) -> Iterator[dict[str, int]]:
        """Count R2 calls and bytes while the block runs; filled in at its end, empty without a count."""
        counts: dict[str, int] = {}
        with self._watched() as endpoints:
            yield counts
        for endpoint in endpoints.values():
            for name, count in endpoint.items():
                counts[name] = counts.get(name, 0) + int(count)

    @contextmanager
    def requests(self) -> Iterator[dict[str, int]]:
        """Count the requests while the block runs, by method and path; filled in at its end, empty without a count."""
        counts: dict[str, int] = {}
        with self._watched() as endpoints:
            yield counts
        counts.update({name: int(endpoint["n"]) for name, endpoint in endpoints.items()})

    @contextmanager
    def _watched(self) -> Iterator[dict[str, Any]]:
        endpoints: dict[str, Any] = {}
        if self.stats_url is None:
            yield endpoints
            return
        self._ask("POST", "/reset")
        yield endpoints
        endpoints.update(self._ask("GET", "/stats"))

    def _ask(self, method: str, path: str) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.stats_url}{path}", method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            content = answer.read()
        return dict(json.loads(content)) if method == "GET" else {}


def log_in(client: Client, registry: Registry, user: User) -> None:
    """Log in with docker or skopeo and keep the credentials in the client's own files."""
    client.succeeds(*login_command(client, registry, user), stdin=user.password)


def login_command(client: Client, registry: Registry, user: User) -> list[str]:
    """Return the arguments of the client's `login`, which reads the password from stdin."""
    plain = ["--tls-verify=false"] if client.program.name != "docker" else []
    return ["login", *plain, "--username", user.name, "--password-stdin", registry.host]


@contextmanager
def local_runtime(data: Path, **settings: str) -> Iterator[tuple[Server, Registry]]:
    """Run `make serve` on free ports with an empty bucket in `data` and more settings."""
    port = free_port()
    command = ["make", "-s", "-C", str(ROOT), "serve", f"PORT={port}", f"DATA={data}", "STATS=1"]
    environment = {
        **{key: value for key, value in os.environ.items() if key not in MAKE_VARIABLES},
        "USERNAME": WRITER.name,
        "PASSWORD": WRITER.password,
        "READONLY_USERNAME": READER.name,
        "READONLY_PASSWORD": READER.password,
        **settings,
    }
    with Server("make serve", command, environment, f"http://localhost:{port}") as server:
        yield server, Registry(f"localhost:{port}", f"http://localhost:{port + 1}")


def free_port() -> int:
    """Return a port that is free, and the next one too: there the runtime serves its counts."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
