"""`registry-push`, as it is installed, through an edge that takes no large bodies; its proxy with docker and others.

The images are pulled by docker without any of it: what is there is what was pushed.
"""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from .builders import Buildctl
from .daemons import Containerd, Podman
from .edge import edge_before
from .images import KIB, MIB, OciLayout, docker_archive, entry_digest, layer
from .processes import Client, Server
from .target import ROOT, WRITER, Registry, log_in
from .test_docker import digest_in, image_id, load
from .tools import Crane, Lab, Oras, Regctl, Skopeo, Tool

PROGRAM = ROOT / ".venv/bin/registry-push"
LIMIT = 16_000_000  # bytes: Cloudflare's 100 MB would take long
SMALL = 5_000_000  # bytes, for the clients of the matrix, whose layers have 9 MiB
MEMORY = 150 * MIB  # of the tool, with a layer that is larger


@pytest.fixture
def pusher(folder: Path) -> Client:
    """Return registry-push with a cache and a home of its own, and WRITER's credentials in the environment."""
    return Client(
        PROGRAM,
        {
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "REGISTRY_USERNAME": WRITER.name,
            "REGISTRY_PASSWORD": WRITER.password,
        },
    )


@contextmanager
def proxy_to(host: str, home: Path, *options: str) -> Iterator[str]:
    """Run the proxy before a registry; its host and port."""
    command = [str(PROGRAM), "proxy", "--listen", "127.0.0.1:0", "--to", host, *options]
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "REGISTRY_USERNAME": WRITER.name,
        "REGISTRY_PASSWORD": WRITER.password,
    }
    with Server("registry-push proxy", command, environment, "listening on") as server:
        [port] = re.findall(r"listening on http://127\.0\.0\.1:(\d+)", server.output())
        yield f"localhost:{port}"


def test_docker_alone_fails(docker: Client, registry: Registry, lab: Lab, folder: Path) -> None:
    """A layer above the limit does not pass: this is what the rest is for."""
    with edge_before(registry.host, LIMIT) as (host, edge):
        log_in(docker, Registry(host), WRITER)
        load(docker, folder, f"{host}/{lab.name}:1", [layer(lab.name, 40 * MIB)])
        docker.fails("push", f"{host}/{lab.name}:1")
    assert edge.refused > 0


def test_docker_through_the_proxy(docker: Client, registry: Registry, lab: Lab, folder: Path) -> None:
    """The same push passes, and the image that is pulled from the registry itself is the same."""
    with edge_before(registry.host, LIMIT) as (host, edge), proxy_to(host, folder) as local:
        log_in(docker, Registry(local), WRITER)
        identity = load(docker, folder, f"{local}/{lab.name}:1", [layer(lab.name, 40 * MIB), layer("small", KIB)])
        pushed = digest_in(docker.succeeds("push", f"{local}/{lab.name}:1").stdout)
        docker.succeeds("image", "rm", f"{local}/{lab.name}:1")
        pulled = docker.succeeds("pull", f"{local}/{lab.name}:1").stdout
        assert digest_in(pulled) == pushed
    assert 0 < edge.largest <= LIMIT
    docker.succeeds("pull", lab.image())
    assert image_id(docker, lab.image()) == identity


@pytest.mark.parametrize("kind", [Podman, Containerd, Skopeo, Crane, Regctl, Oras, Buildctl])
def test_other_clients_through_the_proxy(
    kind: type[Tool], registry: Registry, lab: Lab, make_tool: Callable[[type[Tool], Path], Tool]
) -> None:
    """Those that send a layer in one PUT, in one PATCH, in chunks, with and without its length; they log in to it."""
    options = ("--chunk-size", "4MiB")
    with edge_before(registry.host, SMALL) as (host, edge), proxy_to(host, lab.folder, *options) as local:
        there = Lab(Registry(local), lab.folder, lab.name)
        tool = make_tool(kind, lab.folder)
        tool.prepare(there)
        tool.push_and_pull(there)
    assert lab.pushed()
    assert 0 < edge.largest <= SMALL
    assert edge.refused == 0


def test_the_proxy_logs_in(registry: Registry, lab: Lab, anonymous_skopeo: Client) -> None:
    """With --log-in a client needs no credentials."""
    source, digest = lab.layout()
    with proxy_to(registry.host, lab.folder, "--log-in") as local:
        to = f"docker://{local}/{lab.name}:1"
        anonymous_skopeo.succeeds("copy", "--preserve-digests", "--dest-tls-verify=false", f"oci:{source}:1", to)
    lab.check_manifest(digest)


@pytest.mark.parametrize("troubles", [0, 25])
def test_the_tool(pusher: Client, docker: Client, registry: Registry, lab: Lab, folder: Path, troubles: int) -> None:
    """Layers of 0 B to 300 MiB; with cut connections, lost answers, 429 and 503 none above 40 MiB."""
    sizes = (0, KIB, 5 * MIB, 40 * MIB) if troubles else (0, KIB, 5 * MIB, 40 * MIB, 300 * MIB)
    archive = folder / "image.tar"
    archive.write_bytes(docker_archive("any/name:1", [layer(f"{lab.name}{troubles}", size) for size in sizes]))
    with edge_before(registry.host, LIMIT, seed=troubles, troubles=troubles) as (host, edge):
        to = f"{host}/{lab.name}:1"
        output = pusher.succeeds("any/name:1", "--from", f"docker-archive:{archive}", "--to", to, "--json").stdout
    result = json.loads(output.splitlines()[-1])
    assert result["reference"] == to
    assert edge.largest <= LIMIT
    assert edge.troubles == 0
    if not troubles:
        assert edge.received < result["bytes_pushed"] + MIB, "bytes were sent more than once"
    docker.succeeds("load", "--input", str(archive))
    docker.succeeds("pull", lab.image())
    assert image_id(docker, lab.image()) == image_id(docker, "any/name:1")
    digests = docker.succeeds("image", "inspect", "--format", "{{.RepoDigests}}", lab.image()).stdout
    assert result["digest"] in digests


def test_from_docker(pusher: Client, docker: Client, docker_socket: str, lab: Lab, folder: Path) -> None:
    """The image of the daemon, pushed where its name says; the second time neither daemon nor upload is needed."""
    identity = load(docker, folder, lab.image(), [layer(lab.name, 5 * MIB), layer("small", KIB)])
    tool = pusher.inside(folder, {"DOCKER_HOST": docker_socket})
    first = tool.succeeds(lab.image())
    assert "compressed" in first.stderr
    with lab.registry.receives_no_blob():
        second = tool.succeeds(lab.image())
    assert second.stdout == first.stdout
    assert "compress" not in second.stderr
    docker.succeeds("image", "rm", lab.image())
    docker.succeeds("pull", lab.image())
    assert image_id(docker, lab.image()) == identity


def test_from_podman(pusher: Client, anonymous_podman: Client, lab: Lab, folder: Path) -> None:
    """Podman's image; layers are compressed with zstd."""
    archive = folder / "image.tar"
    archive.write_bytes(docker_archive(lab.image(), [layer(lab.name, 2 * MIB)]))
    log_in(anonymous_podman, lab.registry, WRITER)
    anonymous_podman.succeeds("load", "--input", str(archive))
    tool = pusher.inside(folder, anonymous_podman.environment)
    tool.succeeds(lab.image(), "--from", "podman", "--compression", "zstd")
    anonymous_podman.succeeds("pull", "--tls-verify=false", lab.image())
    assert all(each["mediaType"].endswith("+zstd") for each in lab.check_manifest(lab.pushed())["layers"])


def test_an_index_from_a_layout(pusher: Client, skopeo: Client, lab: Lab) -> None:
    """A multi-arch index and its images arrive byte for byte."""
    layout = OciLayout(lab.folder / "layout")
    images = {each: layout.add_image([layer(f"{lab.name}-{each}", KIB)], each) for each in ("amd64", "arm64")}
    layout.tag("1", layout.add_index(images))
    pusher.succeeds(lab.image(), "--from", f"oci:{layout.folder}")
    back = lab.folder / "back"
    skopeo.succeeds(
        "copy", "--all", "--preserve-digests", "--src-tls-verify=false", f"docker://{lab.image()}", f"oci:{back}:1"
    )
    assert entry_digest(back) == entry_digest(layout.folder)


def test_it_goes_on_after_a_kill(pusher: Client, registry: Registry, lab: Lab, folder: Path) -> None:
    """Killed in the middle of a layer and started again, it sends what is missing."""
    archive = folder / "image.tar"
    archive.write_bytes(docker_archive("any:1", [layer(lab.name, 64 * MIB)]))
    with edge_before(registry.host, LIMIT) as (host, edge):
        command = ["any:1", "--from", f"docker-archive:{archive}", "--to", f"{host}/{lab.name}:1", "--verbose"]
        with subprocess.Popen(
            [str(PROGRAM), *command, "--chunk-size", "8MiB"],
            env=dict(pusher.environment),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if "PATCH" in line and "Content-Range: 25165824-" in line:
                    process.send_signal(signal.SIGKILL)
                    break
        assert process.returncode == -signal.SIGKILL
        result = pusher.succeeds(*command, "--chunk-size", "8MiB")
    assert "resumes at byte" in result.stderr
    assert edge.received < 64 * MIB + 9 * MIB


@dataclass(frozen=True, slots=True)
class Peak:
    """How much memory a program took at most, in bytes."""

    output: str
    memory: int


def measured(command: list[str], environment: dict[str, str]) -> Peak:
    """Run a program and see its largest memory."""
    code = (
        "import resource, subprocess, sys\n"
        "code = subprocess.run(sys.argv[1:]).returncode\n"
        "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "sys.exit(code)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *command], env=environment, capture_output=True, text=True, check=True
    )
    [kib] = re.findall(r"^peak (\d+)$", result.stdout, re.MULTILINE)
    return Peak(result.stdout, int(kib) * KIB)


def test_memory(pusher: Client, registry: Registry, lab: Lab, folder: Path) -> None:
    """A layer of 300 MiB is never in memory: neither when it is compressed nor when it is sent."""
    archive = folder / "image.tar"
    archive.write_bytes(docker_archive("any:1", [layer(lab.name, 300 * MIB)]))
    to = f"{registry.host}/{lab.name}:1"
    command = [str(PROGRAM), "any:1", "--from", f"docker-archive:{archive}", "--to", to, "--json"]
    peak = measured(command, dict(pusher.environment))
    assert peak.memory < MEMORY
    [result] = [json.loads(line) for line in peak.output.splitlines() if '"result"' in line]
    assert result["pushed"] == 2
    assert result["bytes_pushed"] > 300 * MIB


def test_exit_codes(pusher: Client, registry: Registry, lab: Lab, folder: Path) -> None:
    """A script can tell what went wrong."""
    layout = OciLayout(folder / "layout")
    layout.tag("1", layout.add_image([layer(lab.name, KIB)]))
    source = ("--from", f"oci:{layout.folder}")
    wrong = pusher.inside(folder, {"REGISTRY_PASSWORD": "not it"})
    cases = [
        (pusher, (lab.image(), *source), 0, ""),
        (pusher, (lab.image(), "--from", "oci:/nowhere"), 2, "no such folder"),
        (pusher, ("app:1", *source), 2, "does not name a registry"),
        (wrong, (f"{registry.host}/{lab.name}-2:1", *source), 3, "refused the credentials of hello"),
        (pusher, ("localhost:1/app:1", *source, "--retries", "1"), 4, "tried 2 times"),
    ]
    for client, arguments, code, words in cases:
        result = client.succeeds(*arguments) if code == 0 else client.fails(*arguments)
        assert (result.returncode, words in result.stderr) == (code, True), result.stderr
        assert "Traceback" not in result.stderr


def test_credentials_of_docker(docker: Client, lab: Lab, folder: Path) -> None:
    """What `docker login` stored is enough."""
    layout = OciLayout(folder / "layout")
    layout.tag("1", layout.add_image([layer(lab.name, KIB)]))
    environment = {"HOME": str(folder), "DOCKER_CONFIG": docker.environment["DOCKER_CONFIG"]}
    Client(PROGRAM, environment).succeeds(lab.image(), "--from", f"oci:{layout.folder}")


def test_bearer_tokens(pusher: Client, token_registry: Registry, folder: Path) -> None:
    """A registry that sends clients to its token endpoint; a second repository to mount from."""
    layout = OciLayout(folder / "layout")
    layout.tag("1", layout.add_image([layer("bearer", KIB)]))
    source = ("--from", f"oci:{layout.folder}")
    pusher.succeeds(f"{token_registry.host}/push/first:1", *source)
    result = pusher.succeeds(f"{token_registry.host}/push/second:1", *source, "--mount-from", "push/first")
    assert "mounted" in result.stderr
    with proxy_to(token_registry.host, folder, "--log-in") as local:
        pusher.succeeds(f"{local}/push/third:1", *source)
