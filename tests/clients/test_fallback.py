"""Pulling through the registry from others behind it: Debian's docker-registry, and a second one of ours."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import docker_client, servers, skopeo_client
from .images import KIB, MIB, OciLayout, blobs, entry_digest, layer, noise
from .processes import Client
from .target import READER, WRITER, Registry, User, local_runtime, log_in
from .upstreams import KINDS, USER, docker_registry

REVALIDATE = 2  # seconds
NAME = "team/app"


@dataclass(frozen=True, slots=True)
class Upstream:
    """Another registry. `stop` stops it."""

    host: str
    user: User | None
    stop: Callable[[], None]
    token_server: str | None = None


@pytest.fixture(params=[*KINDS, "ours"])
def upstream(request: pytest.FixtureRequest, folder: Path) -> Iterator[Upstream]:
    """Run another registry, with each kind of authentication."""
    with ExitStack() as running:
        if request.param == "ours":
            _, registry = running.enter_context(local_runtime(folder / "theirs", BEARER_TOKENS="true"))
            yield Upstream(registry.host, WRITER, running.close)
        else:
            host, token_server = running.enter_context(docker_registry(request.param, folder / "theirs"))
            yield Upstream(host, None if request.param == "none" else USER, running.close, token_server)


@contextmanager
def behind(upstream: Upstream, folder: Path) -> Iterator[Registry]:
    """Run a registry of ours with that one behind it: our `hub/…` is all it has."""
    entry: dict[str, object] = {"registry": f"http://{upstream.host}", "prefix": "hub", "revalidate": REVALIDATE}
    secrets = {}
    if upstream.user is not None:
        entry |= {"username": upstream.user.name, "password_env": "UPSTREAM_PASSWORD"}
        secrets["UPSTREAM_PASSWORD"] = upstream.user.password
    if upstream.token_server is not None:
        entry["token_server"] = upstream.token_server
    settings = {"REGISTRIES_JSON": json.dumps([entry]), **secrets}
    with local_runtime(folder / "ours", **settings) as (server, registry):
        servers.append(server)
        yield registry
        servers.remove(server)


@pytest.fixture
def registry(upstream: Upstream, folder: Path) -> Iterator[Registry]:
    """Return our registry with the other one behind it."""
    with behind(upstream, folder) as registry:
        yield registry


def push_there(skopeo: Client, upstream: Upstream, source: str) -> None:
    """Copy an image or index to the other registry, every byte as it is."""
    credentials = [] if upstream.user is None else ["--dest-creds", upstream.user.credentials]
    options = ["--all", "--preserve-digests", "--dest-tls-verify=false", *credentials]
    skopeo.succeeds("copy", *options, source, f"docker://{upstream.host}/{NAME}:1")


def image_of(layout: OciLayout, seed: str) -> str:
    """Return an index of two images, for skopeo."""
    images = {
        "amd64": layout.add_image([layer(seed, KIB), layer(seed, MIB), layer(seed, 20 * MIB)]),
        "arm64": layout.add_image([layer(seed, KIB), noise(seed, 2 * KIB)], "arm64"),
    }
    return layout.tag("1", layout.add_index(images))


def test_pulls_go_on_without_the_upstream(
    upstream: Upstream, registry: Registry, folder: Path, docker_socket: str
) -> None:
    """Both pull through us; a tag that moves is seen; then the upstream is stopped, and both pull again."""
    skopeo = skopeo_client(folder / "skopeo-home")
    log_in(skopeo, registry, READER)
    docker = docker_client(folder / "docker-home", docker_socket)
    log_in(docker, registry, WRITER)
    image = f"{registry.host}/hub/{NAME}:1"

    def pull_both(step: str) -> str:
        copied = folder / step
        options = ["--all", "--preserve-digests", "--src-tls-verify=false"]
        skopeo.succeeds("copy", *options, f"docker://{image}", f"oci:{copied}:1")
        assert all(name == digest[7:] for name, digest in blobs(copied).items())
        docker.succeeds("pull", image)
        pulled = docker.succeeds("image", "inspect", "--format", "{{index .RepoDigests 0}}", image).stdout
        docker.succeeds("rmi", image)
        index = entry_digest(copied)
        assert pulled.strip().endswith(f"@{index}")
        return index

    first = OciLayout(folder / "first")
    push_there(skopeo, upstream, image_of(first, f"{upstream.host} first"))
    assert pull_both("pulled") == entry_digest(first.folder)

    second = OciLayout(folder / "second")
    push_there(skopeo, upstream, image_of(second, f"{upstream.host} second"))
    time.sleep(REVALIDATE)  # that is what is tested: so long a copy counts as fresh
    moved = entry_digest(second.folder)
    assert pull_both("pulled-moved") == moved

    upstream.stop()
    time.sleep(REVALIDATE)
    assert pull_both("pulled-without") == moved
    tags = skopeo.succeeds("list-tags", "--tls-verify=false", f"docker://{registry.host}/hub/{NAME}").stdout
    assert json.loads(tags)["Tags"] == ["1"]


def test_a_push_uploads_what_only_the_upstream_has(
    upstream: Upstream, registry: Registry, folder: Path, docker_socket: str
) -> None:
    """Docker pushes an image whose layers are elsewhere; it is here when the upstream is gone."""
    skopeo = skopeo_client(folder / "skopeo-home")
    layout = OciLayout(folder / "first")
    push_there(skopeo, upstream, layout.tag("1", layout.add_image([layer(upstream.host, KIB)])))
    docker = docker_client(folder / "docker-home", docker_socket)
    log_in(docker, registry, WRITER)
    image = f"{registry.host}/hub/{NAME}"
    loaded = folder / "docker.tar"
    skopeo.succeeds("copy", f"oci:{layout.folder}:1", f"docker-archive:{loaded}:{image}:pushed")
    docker.succeeds("load", "--input", str(loaded))
    docker.succeeds("push", f"{image}:pushed")
    docker.succeeds("rmi", f"{image}:pushed")
    upstream.stop()
    docker.succeeds("pull", f"{image}:pushed")
    docker.succeeds("rmi", f"{image}:pushed")
