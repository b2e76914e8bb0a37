"""skopeo: Debian's 1.9 against the registry. It copies bytes as they are."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flows import FLOWS

from .images import (
    KIB,
    MIB,
    OCI_INDEX,
    Descriptor,
    OciLayout,
    blobs,
    digest_of,
    entry_digest,
    layer,
    noise,
)
from .processes import Client
from .target import STRANGER, WRITER, Registry, login_command

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@pytest.fixture
def layout(folder: Path) -> OciLayout:
    """Return a layout without images."""
    return OciLayout(folder / "pushed")


def small_layers(seed: str) -> list[bytes]:
    """Return two layers that are copied at once."""
    return [layer(seed, KIB), layer(seed, 2 * KIB)]


def push(skopeo: Client, source: str, image: str, *options: str) -> None:
    """Copy from a layout to the registry, every byte as it is."""
    options = ("--preserve-digests", "--dest-tls-verify=false", *options)
    skopeo.succeeds("copy", *options, source, f"docker://{image}")


def pull(skopeo: Client, image: str, folder: Path, *options: str) -> None:
    """Copy from the registry to a new layout, every byte as it is."""
    options = ("--preserve-digests", "--src-tls-verify=false", *options)
    skopeo.succeeds("copy", *options, f"docker://{image}", f"oci:{folder}:1")


def inspect_command(image: str, *options: str) -> list[str]:
    """Return the arguments of `skopeo inspect`."""
    return ["inspect", "--tls-verify=false", *options, f"docker://{image}"]


def test_login_with_the_password(anonymous_skopeo: Client, registry: Registry) -> None:
    """`skopeo login` with the right password succeeds."""
    command = login_command(anonymous_skopeo, registry, WRITER)
    result = anonymous_skopeo.succeeds(*command, stdin=WRITER.password)
    assert "Login Succeeded!" in result.stdout


def test_login_with_a_wrong_password(anonymous_skopeo: Client, registry: Registry) -> None:
    """`skopeo login` with a wrong password fails and blames the password."""
    command = login_command(anonymous_skopeo, registry, STRANGER)
    result = anonymous_skopeo.fails(*command, stdin=STRANGER.password)
    assert "invalid username/password" in result.stderr


def test_copy_there_and_back(skopeo: Client, layout: OciLayout, repository: str, folder: Path) -> None:
    """Layers of every size come back byte for byte.

    skopeo knows the sizes and sends each layer as one PATCH with Content-Length, and the empty
    one chunked. R2's parts, of 8 or 32 MiB, divide 64 MiB: one byte more begins another part.
    """
    sizes = (0, KIB, MIB, 6 * MIB, 64 * MIB, 64 * MIB + 1)
    image = layout.add_image([noise(f"{repository}{size}", size) for size in sizes])
    push(skopeo, layout.tag("1", image), f"{repository}:1")
    pull(skopeo, f"{repository}:1", folder / "pulled")
    assert entry_digest(folder / "pulled") == image["digest"]
    assert blobs(folder / "pulled") == blobs(layout.folder)


def test_second_copy_uploads_nothing(skopeo: Client, layout: OciLayout, registry: Registry, repository: str) -> None:
    """Copying an image again finds every blob there."""
    source = layout.tag("1", layout.add_image(small_layers(repository)))
    push(skopeo, source, f"{repository}:1")
    command = ["--debug", "copy", "--preserve-digests", "--dest-tls-verify=false", source]
    with registry.receives_no_blob():
        log = skopeo.succeeds(*command, f"docker://{repository}:1").stderr
    assert "HEAD http" in log, log
    assert "POST http" not in log, log


def test_second_repository(skopeo: Client, layout: OciLayout, repository: str, folder: Path) -> None:
    """An image is copied to a second repository, by mounting or by uploading, and is whole there.

    8 MiB is where the registry begins to store a blob apart from the repository it is in.
    """
    image = layout.add_image([*small_layers(repository), noise(repository, 8 * MIB)])
    source = layout.tag("1", image)
    push(skopeo, source, f"{repository}:1")
    push(skopeo, source, f"{repository}/copy:1")
    pull(skopeo, f"{repository}/copy:1", folder / "pulled")
    assert blobs(folder / "pulled") == blobs(layout.folder)


def test_copy_inside_the_registry(skopeo: Client, layout: OciLayout, repository: str, folder: Path) -> None:
    """An image is copied from one repository to another, by mounting or by uploading again."""
    push(skopeo, layout.tag("1", layout.add_image(small_layers(repository))), f"{repository}:1")
    source, target = f"docker://{repository}:1", f"docker://{repository}/copy:2"
    insecure = ("--src-tls-verify=false", "--dest-tls-verify=false")
    skopeo.succeeds("copy", "--preserve-digests", *insecure, source, target)
    pull(skopeo, f"{repository}/copy:2", folder / "pulled")
    assert blobs(folder / "pulled") == blobs(layout.folder)


def test_inspect(skopeo: Client, layout: OciLayout, repository: str) -> None:
    """`skopeo inspect` reads the manifest, the configuration and the tags."""
    layers = small_layers(repository)
    image = layout.add_image(layers)
    push(skopeo, layout.tag("1", image), f"{repository}:1")
    push(skopeo, layout.tag("1", image), f"{repository}:latest")
    answer = json.loads(skopeo.succeeds(*inspect_command(f"{repository}:1")).stdout)
    assert answer["Digest"] == image["digest"]
    assert answer["Layers"] == [digest_of(each) for each in layers]
    assert answer["Architecture"] == "amd64"
    assert sorted(answer["RepoTags"]) == ["1", "latest"]


def test_inspect_of_an_unknown_tag(skopeo: Client, layout: OciLayout, repository: str) -> None:
    """A tag that is not there is an unknown manifest."""
    push(skopeo, layout.tag("1", layout.add_image(small_layers(repository))), f"{repository}:1")
    result = skopeo.fails(*inspect_command(f"{repository}:none"))
    assert "manifest unknown" in result.stderr


def test_copy_by_digest(skopeo: Client, layout: OciLayout, repository: str, folder: Path) -> None:
    """An image is copied by its digest."""
    image = layout.add_image(small_layers(repository))
    push(skopeo, layout.tag("1", image), f"{repository}:1")
    pull(skopeo, f"{repository}@{image['digest']}", folder / "pulled")
    assert blobs(folder / "pulled") == blobs(layout.folder)


def test_index_with_all_its_images(skopeo: Client, layout: OciLayout, repository: str, folder: Path) -> None:
    """An index of two platforms, which share a layer, comes back with all its images."""
    shared = layer(repository, KIB)
    images: dict[str, Descriptor] = {
        architecture: layout.add_image([shared, layer(repository + architecture, KIB)], architecture)
        for architecture in ("amd64", "arm64")
    }
    index = layout.add_index(images)
    push(skopeo, layout.tag("1", index), f"{repository}:1", "--all")
    raw = skopeo.succeeds(*inspect_command(f"{repository}:1", "--raw")).stdout
    assert json.loads(raw)["mediaType"] == OCI_INDEX
    assert digest_of(raw.encode()) == index["digest"]
    pull(skopeo, f"{repository}:1", folder / "pulled", "--all")
    assert entry_digest(folder / "pulled") == index["digest"]
    assert blobs(folder / "pulled") == blobs(layout.folder)


def test_docker_format(skopeo: Client, layout: OciLayout, repository: str, folder: Path) -> None:
    """An image in docker's format keeps its type and its bytes.

    skopeo compresses the layers on the way: it sends them without Content-Length.
    """
    source = layout.tag("1", layout.add_image([*small_layers(repository), layer("large", 9 * MIB)]))
    options = ("--format", "v2s2", "--dest-tls-verify=false")
    skopeo.succeeds("copy", *options, source, f"docker://{repository}:1")
    raw = skopeo.succeeds(*inspect_command(f"{repository}:1", "--raw")).stdout
    manifest = json.loads(raw)
    assert manifest["mediaType"] == DOCKER_MANIFEST
    assert all(each["mediaType"].endswith(".tar.gzip") for each in manifest["layers"])

    # The `dir` transport keeps docker's manifest as it is, where an OCI layout converts it.
    pulled = folder / "pulled"
    source, target = f"docker://{repository}:1", f"dir:{pulled}"
    skopeo.succeeds("copy", "--preserve-digests", "--src-tls-verify=false", source, target)
    assert (pulled / "manifest.json").read_bytes() == raw.encode()
    for each in (manifest["config"], *manifest["layers"]):
        assert digest_of((pulled / each["digest"][7:]).read_bytes()) == each["digest"]


def test_wrong_password(skopeo: Client, layout: OciLayout, repository: str) -> None:
    """With a wrong password, reading and writing fail and say that it is unauthorized."""
    source = layout.tag("1", layout.add_image(small_layers(repository)))
    push(skopeo, source, f"{repository}:1")
    read = inspect_command(f"{repository}:1", "--creds", STRANGER.credentials)
    assert "unauthorized" in skopeo.fails(*read).stderr
    options = ("--dest-tls-verify=false", "--dest-creds", STRANGER.credentials)
    written = skopeo.fails("copy", *options, source, f"docker://{repository}/other:1")
    assert "unauthorized" in written.stderr


def test_read_only_user_reads(
    skopeo: Client, reading_skopeo: Client, layout: OciLayout, repository: str, folder: Path
) -> None:
    """The read-only user copies what somebody else wrote."""
    push(skopeo, layout.tag("1", layout.add_image(small_layers(repository))), f"{repository}:1")
    pull(reading_skopeo, f"{repository}:1", folder / "pulled")
    assert blobs(folder / "pulled") == blobs(layout.folder)


def test_read_only_user_cannot_write(reading_skopeo: Client, layout: OciLayout, repository: str) -> None:
    """Writing is denied to the read-only user."""
    source = layout.tag("1", layout.add_image(small_layers(repository)))
    target = f"docker://{repository}:1"
    result = reading_skopeo.fails("copy", "--dest-tls-verify=false", source, target)
    assert "denied" in result.stderr


# What `make ops` says of skopeo; the flows there are held to what is seen here.
FIVE_LAYERS = (KIB, MIB, 6 * MIB, 24 * MIB, 64 * MIB)  # bytes
MAX_WRITTEN = 1.08  # bytes per byte pushed


def test_five_layers_stay_within_the_budget(
    skopeo: Client, registry: Registry, layout: OciLayout, repository: str, folder: Path
) -> None:
    """Counted on the wire: what five layers cost in R2 calls is what the flows of `make ops` say."""
    contents = [noise(f"{repository} {size}", size) for size in FIVE_LAYERS]
    image = layout.add_image(contents)
    # The first push ever also makes the key that signs sessions.
    push(skopeo, layout.tag("0", layout.add_image(small_layers(repository))), f"{repository}/first:0")
    flows: dict[str, Callable[[], None]] = {
        "skopeo-push-5-layers": lambda: push(skopeo, layout.tag("1", image), f"{repository}:1"),
        "skopeo-repush-5-layers": lambda: push(skopeo, layout.tag("1", image), f"{repository}:1"),
        "skopeo-second-repo-5-layers": lambda: push(skopeo, layout.tag("1", image), f"{repository}/second:1"),
        "skopeo-pull-5-layers": lambda: pull(skopeo, f"{repository}:1", folder / "pulled"),
    }
    for name, run in flows.items():
        with registry.counted() as counts:
            run()
        if not counts:
            return  # somebody else's registry (REGISTRY=): it does not count
        print(name, counts)
        assert counts["A"] <= FLOWS[name].class_a, name
        assert counts["B"] <= FLOWS[name].class_b, name
        assert counts["written"] <= MAX_WRITTEN * sum(FIVE_LAYERS), name


def test_sync(skopeo: Client, layout: OciLayout, repository: str) -> None:
    """`skopeo sync` copies a repository with all of its tags and architectures."""
    images = {name: layout.add_image(small_layers(f"{repository}{name}"), name) for name in ("amd64", "arm64")}
    source = layout.tag("1", layout.add_index(images))
    for tag in ("1", "2"):
        push(skopeo, source, f"{repository}:{tag}", "--all")
    target = f"{repository}-mirror"
    plain = ("--src-tls-verify=false", "--dest-tls-verify=false")
    skopeo.succeeds("sync", *plain, "--all", "--src", "docker", "--dest", "docker", repository, target)
    digests = {
        skopeo.succeeds(*inspect_command(f"{name}:{tag}", "--format", "{{.Digest}}")).stdout
        for name in (repository, f"{target}/{repository.rpartition('/')[2]}")
        for tag in ("1", "2")
    }
    assert digests == {f"{entry_digest(layout.folder)}\n"}
