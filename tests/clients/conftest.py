"""Fixtures: the registry, a docker daemon of our own, and clients that share nothing.

REGISTRY=host:port names a registry that runs already and knows hello/world; it takes the
tests of the read-only user when READONLY_USERNAME and READONLY_PASSWORD are set as well.
"""

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from .artifacts import Devcontainers, Dxf
from .builders import Buildctl
from .daemons import Buildah, Containerd, Containerd2, Docker, Docker29, Podman
from .issuer import JOB_RULE, Issuer
from .processes import Client, Server
from .target import PERSON, READER, ROOT, WRITER, Registry, local_runtime, log_in
from .tools import GO_BIN, ContainersImage, Lab, Skopeo, Tool

# Debian's own. Another docker client may come first on the PATH (see install.sh).
DOCKER = Path("/usr/bin/docker")
DOCKERD = Path("/usr/sbin/dockerd")
SKOPEO = Path("/usr/bin/skopeo")
PODMAN = Path("/usr/bin/podman")
BUILDAH = Path("/usr/bin/buildah")
CONTAINERD = Path("/usr/bin/containerd")
CTR = Path("/usr/bin/ctr")
NODE = ROOT / "node_modules/.bin/node"
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

READING_CLIENTS = frozenset({"reading_docker", "reading_skopeo"})

servers: list[Server] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what a registry that runs already cannot answer: it has no read-only user, or not our settings."""
    if "REGISTRY" not in os.environ:
        return
    missing = {"token"} if "READONLY_USERNAME" in os.environ else {"token", "token_registry", *READING_CLIENTS}
    left_out = [item for item in items if isinstance(item, pytest.Function) and missing.intersection(item.fixturenames)]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def pytest_runtest_setup() -> None:
    """Keep of the servers' output what belongs to the test that begins."""
    for server in servers:
        server.forget_output()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failed test what the servers printed meanwhile."""
    report = yield
    if report.failed:
        report.sections.extend((f"output of {server.name}", server.output()) for server in servers)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much of docs/clients.md was proved."""
    passed = [report.nodeid for report in terminalreporter.getreports("passed") if report.when == "call"]
    cells = sum("test_matrix.py::test_cell[" in nodeid for nodeid in passed)
    tokens = sum("test_matrix.py::test_bearer[" in nodeid for nodeid in passed)
    if cells or tokens:
        terminalreporter.write_line(f"{cells} cells of docs/clients.md proved, and {tokens} clients with tokens")


@pytest.fixture(scope="session")
def session_folder() -> Iterator[Path]:
    """Return a folder that is gone afterwards; short, for a socket's path is at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="clients-") as name:
        yield Path(name)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder for one test. pytest's own would stay: 300 MiB, three times over."""
    with tempfile.TemporaryDirectory(prefix="client-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def registry(session_folder: Path, more_users: Mapping[str, str]) -> Iterator[Registry]:
    """Return the registry named by REGISTRY, or run our own."""
    if host := os.environ.get("REGISTRY"):
        yield Registry(host)
        return
    with local_runtime(session_folder / "bucket", **more_users) as (server, registry):
        servers.append(server)
        yield registry


@pytest.fixture(scope="session")
def issuer() -> Iterator[Issuer]:
    """Return a CI system that signs who its jobs are; its keys are served on loopback."""
    with Issuer.running() as running:
        yield running


@pytest.fixture(scope="session")
def token_registry(session_folder: Path, more_users: Mapping[str, str], issuer: Issuer) -> Iterator[Registry]:
    """Return a registry of our own that sends clients to its token endpoint, and where some repositories are public."""
    settings = {
        **more_users,
        "BEARER_TOKENS": "true",
        "ANONYMOUS_PULL": "public/**",
        "OIDC_ISSUERS_JSON": json.dumps([{**issuer.setting, "rules": [JOB_RULE]}]),
    }
    with local_runtime(session_folder / "token-bucket", **settings) as (server, registry):
        servers.append(server)
        yield registry


def registry_token(*arguments: str, stdin: str = "") -> str:
    """Return what the operator's command prints."""
    code = "import sys; from registry_token.command import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tools")}
    return subprocess.run(
        command, env=environment, input=stdin, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture(scope="session")
def private_key(session_folder: Path) -> Path:
    """Return where the private key for tokens is; the public one lies beside it."""
    path = session_folder / "key.json"
    path.with_suffix(".public").write_text(registry_token("keygen", "--private-key", str(path)))
    return path


@pytest.fixture(scope="session")
def token(private_key: Path) -> str:
    """Return a token that pushes and pulls below team/."""
    options = ("--allow", "push,pull", "--repository", "team/**")
    return registry_token("issue", "--private-key", str(private_key), *options)


@pytest.fixture(scope="session")
def more_users(private_key: Path) -> Mapping[str, str]:
    """Return the settings of an account with a password, and of the key for tokens."""
    secret = registry_token("hash", stdin=f"{PERSON.password}\n").removeprefix("secret: ")
    account = {"name": PERSON.name, "secret": secret, "permissions": {"team/**": ["pull", "push", "delete"]}}
    public = private_key.with_suffix(".public").read_text()
    return {"ACCOUNTS_JSON": json.dumps([account]), "JWT_REGISTRY_TOKENS_PUBLIC_KEY": public}


@pytest.fixture
def repository(registry: Registry, request: pytest.FixtureRequest) -> str:
    """Return host and name of a repository that nobody has used."""
    return f"{registry.host}/clients/{request.function.__name__}-{secrets.token_hex(4)}"


@contextmanager
def run_dockerd(home: Path, attempts: int, dockerd: Path = DOCKERD) -> Iterator[str]:
    """Run dockerd and give its address; it tries a download so many times.

    It needs root and nothing else: no bridge, no iptables, no storage driver but plain copies. One that was built
    runs the containerd that was built.
    """
    assert dockerd.exists(), f"{dockerd} is missing: run tests/clients/install.sh"
    is_debians = dockerd == DOCKERD
    home.mkdir()
    # Instead of /etc/docker/daemon.json; the key is otherwise written to /etc/docker.
    settings = home / "daemon.json"
    settings.write_text(json.dumps({"deprecated-key-path": str(home / "key.json")} if is_debians else {}))
    address = f"unix://{home}/docker.sock"
    command = [
        str(dockerd),
        f"--config-file={settings}",
        f"--data-root={home}/data",
        f"--exec-root={home}/exec",
        f"--pidfile={home}/pid",
        f"--host={address}",
        f"--storage-driver={'vfs' if is_debians else 'native'}",
        "--bridge=none",
        "--iptables=false",
        "--ip6tables=false",
        f"--max-download-attempts={attempts}",
    ]
    environment = {
        "PATH": SYSTEM_PATH if is_debians else f"{dockerd.parent}:{SYSTEM_PATH}",
        "HOME": str(home),
        "DOCKER_MIN_API_VERSION": "1.24",  # that Debian's client speaks
    }
    with Server("dockerd", command, environment, "API listen on") as server:
        servers.append(server)
        yield address
        servers.remove(server)


@pytest.fixture(scope="session")
def docker_socket(session_folder: Path) -> Iterator[str]:
    """Return the address of a dockerd that tries once: a second attempt would hide a failure."""
    with run_dockerd(session_folder / "dockerd", attempts=1) as address:
        yield address


@pytest.fixture(scope="session")
def docker29_socket(session_folder: Path) -> Iterator[str]:
    """Return the address of a dockerd that was built."""
    with run_dockerd(session_folder / "dockerd29", attempts=1, dockerd=GO_BIN / "dockerd") as address:
        yield address


def docker_client(home: Path, address: str) -> Client:
    """Return a docker client without credentials that keeps its files in a new folder."""
    home.mkdir()
    environment = {
        "PATH": SYSTEM_PATH,
        "HOME": str(home),
        "DOCKER_CONFIG": str(home / "docker"),
        "DOCKER_HOST": address,
    }
    return Client(DOCKER, environment)


def skopeo_client(home: Path) -> Client:
    """Return a skopeo without credentials that keeps its files in a new folder.

    For root, its cache of which repository has which blob is one file for the whole machine,
    and what it knows from earlier runs decides whether it uploads or mounts. It keeps the
    cache in HOME when it believes that podman started it for a user who is not root.
    """
    home.mkdir()
    environment = {
        "PATH": SYSTEM_PATH,
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "REGISTRY_AUTH_FILE": str(home / "auth.json"),
        "_CONTAINERS_ROOTLESS_UID": "1000",
    }
    return Client(SKOPEO, environment)


@pytest.fixture
def anonymous_docker(folder: Path, docker_socket: str) -> Client:
    """Return a docker that is not logged in."""
    return docker_client(folder / "anonymous-docker", docker_socket)


def storing_client(program: Path, home: Path) -> Client:
    """Return a podman or buildah without credentials that stores images in a new folder."""
    home.mkdir()
    (home / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{home}/root"\nrunroot = "{home}/run"\n'
    )
    environment = {
        "PATH": SYSTEM_PATH,
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "CONTAINERS_STORAGE_CONF": str(home / "storage.conf"),
        "REGISTRY_AUTH_FILE": str(home / "auth.json"),
    }
    return Client(program, environment)


@pytest.fixture
def anonymous_podman(folder: Path) -> Client:
    """Return a podman that is not logged in and stores images in a folder of its own."""
    return storing_client(PODMAN, folder / "podman")


@contextmanager
def run_containerd(home: Path, containerd: Path, more: str = "") -> Iterator[str]:
    """Run containerd with a store of its own, and `more` in its settings, and give its address."""
    home.mkdir()
    address = f"{home}/c.sock"
    (home / "config.toml").write_text(
        f'version = 2\nroot = "{home}/root"\nstate = "{home}/state"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\naddress = "{address}"\n{more}'
    )
    environment = {"PATH": SYSTEM_PATH, "HOME": str(home)}
    command = [str(containerd), "--config", str(home / "config.toml")]
    with Server("containerd", command, environment, "containerd successfully booted") as server:
        servers.append(server)
        yield address


@pytest.fixture(scope="session")
def containerd_socket(session_folder: Path) -> Iterator[str]:
    """Return the address of Debian's containerd."""
    with run_containerd(session_folder / "containerd", CONTAINERD) as address:
        yield address


@pytest.fixture(scope="session")
def containerd2_socket(session_folder: Path) -> Iterator[str]:
    """Return the address of a containerd that was built, which pulls a layer in parts of a MiB, four at once."""
    parallel = (
        '[plugins."io.containerd.transfer.v1.local"]\n'
        "max_concurrent_downloads = 4\nconcurrent_layer_fetch_buffer = 1048576\n"
        'unpack_config = [{platform = "linux/amd64", snapshotter = "native"}]\n'
    )
    with run_containerd(session_folder / "containerd2", GO_BIN / "containerd", parallel) as address:
        yield address


def built_client(program: str, home: Path) -> Client:
    """Return a client that was built from source, without credentials, that keeps its files in a new folder."""
    home.mkdir()
    environment = {
        "HOME": str(home),
        "DOCKER_CONFIG": str(home / "docker"),
        "REGISTRY_AUTH_FILE": str(home / "docker/config.json"),
        "REGCTL_CONFIG": str(home / "regctl.json"),
        # cosign: of the keys that it makes, and it keeps no trust root of sigstore.dev.
        "COSIGN_PASSWORD": "for tests",
        "SIGSTORE_NO_CACHE": "true",
        # ko: builds with the compiler that built it, without the network.
        "PATH": f"{ROOT / '.go/bin'}:{SYSTEM_PATH}",
        "GOCACHE": str(Path.home() / ".cache/go-build"),
        "GOPROXY": "off",
        "GOFLAGS": "-mod=mod",
    }
    return Client(GO_BIN / program, environment)


@pytest.fixture(scope="session")
def buildkit_address(session_folder: Path) -> Iterator[str]:
    """Run BuildKit's daemon with a store of its own and return its address."""
    home = session_folder / "buildkit"
    home.mkdir()
    (home / "buildkitd.toml").touch()
    address = f"unix://{home}/b.sock"
    command = [
        str(GO_BIN / "buildkitd"),
        f"--config={home}/buildkitd.toml",
        f"--root={home}/root",
        f"--addr={address}",
        f"--otel-socket-path={home}/otel.sock",
        "--oci-worker-snapshotter=native",
        "--oci-worker-net=host",
        "--containerd-worker=false",
    ]
    with Server("buildkitd", command, {"PATH": SYSTEM_PATH, "HOME": str(home)}, "running server on") as server:
        servers.append(server)
        yield address


@pytest.fixture
def make_tool(request: pytest.FixtureRequest) -> Callable[[type[Tool], Path], Tool]:
    """Return what makes a client of the matrix, not logged in."""

    def make(kind: type[Tool], folder: Path) -> Tool:
        home = folder / "home"
        if kind in (Docker, Docker29):
            socket = "docker_socket" if kind is Docker else "docker29_socket"
            return kind(docker_client(home, request.getfixturevalue(socket)))
        if kind is Skopeo:
            return kind(skopeo_client(home))
        if kind in (Podman, Buildah):
            return kind(storing_client(PODMAN if kind is Podman else BUILDAH, home))
        if kind in (Containerd, Containerd2):
            home.mkdir()
            environment = {
                "PATH": SYSTEM_PATH,
                "HOME": str(home),
                "CONTAINERD_ADDRESS": request.getfixturevalue(f"{kind.__name__.lower()}_socket"),
                "CONTAINERD_NAMESPACE": secrets.token_hex(4),
            }
            return kind(Client(CTR if kind is Containerd else GO_BIN / "ctr", environment))
        if kind in (Devcontainers, Dxf):
            home.mkdir()
            program = NODE if kind is Devcontainers else ROOT / "build/py/bin/dxf"
            return kind(Client(program, {"PATH": SYSTEM_PATH, "HOME": str(home)}))
        client = built_client("containers-image" if kind is ContainersImage else kind.__name__.lower(), home)
        if kind is Buildctl:
            client = client.inside(folder, {"BUILDKIT_HOST": request.getfixturevalue("buildkit_address")})
        return kind(client)

    return make


@pytest.fixture
def lab(registry: Registry, folder: Path) -> Lab:
    """Return where a client of the matrix works."""
    return Lab(registry, folder, f"matrix/{secrets.token_hex(4)}")


@pytest.fixture
def docker(folder: Path, docker_socket: str, registry: Registry) -> Client:
    """Return a docker that may do everything."""
    client = docker_client(folder / "docker", docker_socket)
    log_in(client, registry, WRITER)
    return client


@pytest.fixture
def reading_docker(folder: Path, docker_socket: str, registry: Registry) -> Client:
    """Return a docker that is logged in as the read-only user."""
    client = docker_client(folder / "reading-docker", docker_socket)
    log_in(client, registry, READER)
    return client


@pytest.fixture
def anonymous_skopeo(folder: Path) -> Client:
    """Return a skopeo that is not logged in."""
    return skopeo_client(folder / "anonymous-skopeo")


@pytest.fixture
def skopeo(folder: Path, registry: Registry) -> Client:
    """Return a skopeo that may do everything."""
    client = skopeo_client(folder / "skopeo")
    log_in(client, registry, WRITER)
    return client


@pytest.fixture
def reading_skopeo(folder: Path, registry: Registry) -> Client:
    """Return a skopeo that is logged in as the read-only user."""
    client = skopeo_client(folder / "reading-skopeo")
    log_in(client, registry, READER)
    return client
