"""docker: Debian's dockerd 20.10 and its own client against the registry."""

import re
from collections.abc import Sequence
from pathlib import Path

from .images import KIB, MIB, docker_archive, layer
from .processes import Client
from .target import STRANGER, WRITER, Registry, login_command


def load(docker: Client, folder: Path, tag: str, layers: Sequence[bytes]) -> str:
    """Put an image into the daemon and return its ID, the digest of its configuration."""
    archive = folder / "image.tar"
    archive.write_bytes(docker_archive(tag, layers))
    docker.succeeds("load", "--input", str(archive))
    return image_id(docker, tag)


def small_layers(seed: str) -> list[bytes]:
    """Return two layers that are pushed at once."""
    return [layer(seed, KIB), layer(seed, 2 * KIB)]


def image_id(docker: Client, image: str) -> str:
    """Return an image's ID. Equal IDs are equal images: the ID covers every layer's digest."""
    return docker.succeeds("image", "inspect", "--format", "{{.Id}}", image).stdout.strip()


def push(docker: Client, image: str) -> str:
    """Push an image at the first attempt and return the output; dockerd would make five."""
    output = docker.succeeds("push", image).stdout
    assert "Retrying" not in output, output
    return output


def digest_in(output: str) -> str:
    """Return the digest that a push or a pull ends with; layers are shown by 12 digits only."""
    [digest] = re.findall(r"digest: (sha256:[0-9a-f]{64})", output, re.IGNORECASE)
    return str(digest)


def test_login_with_the_password(anonymous_docker: Client, registry: Registry) -> None:
    """`docker login` with the right password succeeds."""
    command = login_command(anonymous_docker, registry, WRITER)
    result = anonymous_docker.succeeds(*command, stdin=WRITER.password)
    assert "Login Succeeded" in result.stdout


def test_login_with_a_wrong_password(anonymous_docker: Client, registry: Registry) -> None:
    """`docker login` with a wrong password fails and says that it is unauthorized."""
    command = login_command(anonymous_docker, registry, STRANGER)
    result = anonymous_docker.fails(*command, stdin=STRANGER.password)
    assert "unauthorized" in result.stderr.lower()


def test_push_without_login(docker: Client, anonymous_docker: Client, repository: str, folder: Path) -> None:
    """A push without credentials fails, and the repository stays empty."""
    load(docker, folder, f"{repository}:1", small_layers(repository))
    result = anonymous_docker.fails("push", f"{repository}:1")
    assert re.search("no basic auth credentials|unauthorized|denied", result.stderr), result.stderr
    assert "not found" in docker.fails("pull", f"{repository}:1").stderr


def test_read_only_user_pulls(docker: Client, reading_docker: Client, repository: str, folder: Path) -> None:
    """The read-only user pulls what somebody else pushed."""
    pushed = load(docker, folder, f"{repository}:1", small_layers(repository))
    push(docker, f"{repository}:1")
    docker.succeeds("rmi", f"{repository}:1")
    reading_docker.succeeds("pull", f"{repository}:1")
    assert image_id(docker, f"{repository}:1") == pushed


def test_read_only_user_cannot_push(docker: Client, reading_docker: Client, repository: str, folder: Path) -> None:
    """A push by the read-only user is denied."""
    load(docker, folder, f"{repository}:1", small_layers(repository))
    assert "denied" in reading_docker.fails("push", f"{repository}:1").stderr


def test_push_and_pull(docker: Client, repository: str, folder: Path) -> None:
    """An image with an empty, a tiny, a middling and a large layer comes back as it was.

    docker sends each layer as one PATCH of unknown length; it compares what it pulls with the
    digests in the manifest and in the image's configuration.
    """
    layers = [layer(repository, size) for size in (0, KIB, 6 * MIB, 24 * MIB)]
    pushed = load(docker, folder, f"{repository}:1", layers)
    output = push(docker, f"{repository}:1")
    assert output.count(": Pushed") + output.count(": Mounted from") == len(layers), output
    docker.succeeds("rmi", f"{repository}:1")
    pulled = docker.succeeds("pull", f"{repository}:1").stdout
    assert pulled.count(": Pull complete") == len(layers), pulled
    assert digest_in(pulled) == digest_in(output)
    assert image_id(docker, f"{repository}:1") == pushed


def test_second_push_uploads_nothing(docker: Client, registry: Registry, repository: str, folder: Path) -> None:
    """Pushing an image again finds every layer there."""
    load(docker, folder, f"{repository}:1", small_layers(repository))
    first = digest_in(push(docker, f"{repository}:1"))
    with registry.receives_no_blob():
        output = push(docker, f"{repository}:1")
    assert output.count(": Layer already exists") == len(small_layers(repository)), output
    assert digest_in(output) == first


def test_second_tag(docker: Client, registry: Registry, repository: str, folder: Path) -> None:
    """A second tag of an image uploads nothing and names the same manifest."""
    pushed = load(docker, folder, f"{repository}:1", small_layers(repository))
    first = digest_in(push(docker, f"{repository}:1"))
    docker.succeeds("tag", f"{repository}:1", f"{repository}:latest")
    with registry.receives_no_blob():
        assert digest_in(push(docker, f"{repository}:latest")) == first
    docker.succeeds("rmi", f"{repository}:1", f"{repository}:latest")
    assert digest_in(docker.succeeds("pull", f"{repository}:latest").stdout) == first
    assert image_id(docker, f"{repository}:latest") == pushed


def test_new_image_under_an_old_tag(docker: Client, repository: str, folder: Path) -> None:
    """A tag that is pushed again names the new image; the old one is there by its digest."""
    old = load(docker, folder, f"{repository}:1", small_layers("old" + repository))
    old_digest = digest_in(push(docker, f"{repository}:1"))
    docker.succeeds("rmi", f"{repository}:1")
    new = load(docker, folder, f"{repository}:1", small_layers("new" + repository))
    new_digest = digest_in(push(docker, f"{repository}:1"))
    docker.succeeds("rmi", f"{repository}:1")
    assert digest_in(docker.succeeds("pull", f"{repository}:1").stdout) == new_digest
    assert image_id(docker, f"{repository}:1") == new
    docker.succeeds("pull", f"{repository}@{old_digest}")
    assert image_id(docker, f"{repository}@{old_digest}") == old


def test_pull_by_digest(docker: Client, repository: str, folder: Path) -> None:
    """An image is pulled by the digest that the push reported."""
    pushed = load(docker, folder, f"{repository}:1", small_layers(repository))
    digest = digest_in(push(docker, f"{repository}:1"))
    docker.succeeds("rmi", f"{repository}:1")
    docker.succeeds("pull", f"{repository}@{digest}")
    assert image_id(docker, f"{repository}@{digest}") == pushed


def test_same_layer_twice(docker: Client, repository: str, folder: Path) -> None:
    """An image may have one layer in two places."""
    first, second = small_layers(repository)
    pushed = load(docker, folder, f"{repository}:1", [first, second, first])
    digest = digest_in(push(docker, f"{repository}:1"))
    docker.succeeds("rmi", f"{repository}:1")
    assert digest_in(docker.succeeds("pull", f"{repository}:1").stdout) == digest
    assert image_id(docker, f"{repository}:1") == pushed


def test_second_repository(docker: Client, repository: str, folder: Path) -> None:
    """An image is pushed to a second repository, by mounting or by uploading, and is whole there.

    8 MiB is where the registry begins to store a blob apart from the repository it is in.
    """
    layers = [*small_layers(repository), layer(repository, 8 * MIB)]
    pushed = load(docker, folder, f"{repository}:1", layers)
    digest = digest_in(push(docker, f"{repository}:1"))
    docker.succeeds("tag", f"{repository}:1", f"{repository}/copy:1")
    assert digest_in(push(docker, f"{repository}/copy:1")) == digest
    docker.succeeds("rmi", f"{repository}:1", f"{repository}/copy:1")
    docker.succeeds("pull", f"{repository}/copy:1")
    assert image_id(docker, f"{repository}/copy:1") == pushed


def test_pull_of_an_unknown_tag(docker: Client, repository: str) -> None:
    """A pull of a tag that is not there fails and says so."""
    assert "not found" in docker.fails("pull", f"{repository}:none").stderr
