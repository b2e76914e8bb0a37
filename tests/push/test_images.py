"""Tests of the sources of images and of the cache: archives, layouts, the choice of an image, compression."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
import zstandard

from registry_push.cache import Cache
from registry_push.compression import Compression
from registry_push.failures import Failure, Misused
from registry_push.images import Manifest
from registry_push.progress import JsonLines
from registry_push.sources import Loader
from tests.clients.images import KIB, OciLayout, config, digest_of, docker_archive, layer, tarball


@pytest.fixture
def said() -> io.StringIO:
    """The output of the tool."""
    return io.StringIO()


@pytest.fixture
def loader(tmp_path: Path, said: io.StringIO) -> Loader:
    """A loader with an empty cache."""
    return Loader(Cache(tmp_path / "cache"), Compression(), JsonLines(said))


def layers_of(image: Manifest) -> list[bytes]:
    """The layers of an image, uncompressed."""
    contents = {blob.digest: blob.content.read() for blob in image.blobs}
    found = []
    for each in json.loads(image.content)["layers"]:
        data = contents[each["digest"]]
        assert digest_of(data) == each["digest"]
        assert len(data) == each["size"]
        if each["mediaType"].endswith("+zstd"):
            found.append(zstandard.ZstdDecompressor().decompressobj().decompress(data))
        else:
            found.append(gzip.decompress(data))
    return found


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_docker_archive(kind: str, packed: bool, tmp_path: Path, said: io.StringIO) -> None:
    """An archive, compressed or not, keeps its layers; the config stays byte for byte, and so does the image ID."""
    contents = [layer("a", 3 * KIB), layer("b", 0)]
    archive = docker_archive("app:1", contents)
    path = tmp_path / "image.tar"
    path.write_bytes(gzip.compress(archive) if packed else archive)
    loader = Loader(Cache(tmp_path / "cache"), Compression(kind, 3), JsonLines(said))
    image = loader.load(f"docker-archive:{path}", "app:1")
    assert layers_of(image) == contents
    assert json.loads(image.content)["config"]["digest"] == digest_of(config(contents, "amd64"))
    said.truncate(0)
    assert loader.load(f"docker-archive:{path}", "app:1") == image
    assert "compress" not in said.getvalue(), "the second time nothing is compressed"


def test_links_and_compressed_layers(tmp_path: Path, loader: Loader) -> None:
    """Links of old docker archives to earlier layers are followed; a compressed layer is not compressed again."""
    content = layer("a", KIB)
    packed = gzip.compress(content, 1)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = {"Config": "c.json", "RepoTags": None, "Layers": ["x/layer.tar", "y/layer.tar"]}
        for name, data in (
            ("x/layer.tar", packed),
            ("c.json", b"{}"),
            ("manifest.json", json.dumps([entry]).encode()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("y/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../x/layer.tar"
        archive.addfile(link)
    path = tmp_path / "image.tar"
    path.write_bytes(buffer.getvalue())
    image = loader.load(f"docker-archive:{path}", "any")
    assert layers_of(image) == [content, content]
    assert json.loads(image.content)["layers"][0]["digest"] == digest_of(packed)


def test_an_oci_archive(tmp_path: Path, loader: Loader) -> None:
    """A layout in a tar keeps its manifest byte for byte."""
    layout = OciLayout(tmp_path / "layout")
    layout.tag("1", layout.add_image([layer("a", KIB)]))
    path = tmp_path / "image.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(layout.folder, ".")
    from_folder = loader.load(f"oci:{layout.folder}", "app:1")
    from_archive = loader.load(f"oci-archive:{path}", "app:1")
    assert from_archive.content == from_folder.content
    assert [blob.content.read() for blob in from_archive.blobs] == [blob.content.read() for blob in from_folder.blobs]


def test_the_same_layer_is_compressed_once(tmp_path: Path, loader: Loader, said: io.StringIO) -> None:
    """A second image takes the layer of a shared base from the cache, unless that was cleared or damaged."""
    base, top = layer("base", 3 * KIB), layer("top", KIB)
    for name, contents in (("one", [base]), ("two", [base, top])):
        (tmp_path / name).write_bytes(docker_archive("app:1", contents))
    first = loader.load(f"docker-archive:{tmp_path / 'one'}", "app:1")
    said.truncate(0)
    loader.load(f"docker-archive:{tmp_path / 'two'}", "app:1")
    assert said.getvalue().count('"begin"') == 1
    blob = next(each for each in first.blobs if each.content.size > KIB)
    blob.content.path.write_bytes(b"cut")
    assert layers_of(loader.load(f"docker-archive:{tmp_path / 'one'}", "app:1")) == [base]


def test_the_cache_has_a_limit(tmp_path: Path, said: io.StringIO) -> None:
    """The least recently used blobs are removed first."""
    cache = Cache(tmp_path / "cache", limit=5 * KIB)
    loader = Loader(cache, Compression(), JsonLines(said))
    for seed in ("a", "b", "c"):
        (tmp_path / seed).write_bytes(docker_archive("app:1", [layer(seed, 3 * KIB)]))
        image = loader.load(f"docker-archive:{tmp_path / seed}", "app:1")
    cache.trim()
    blobs = list((tmp_path / "cache/blobs").iterdir())
    assert sum(path.stat().st_size for path in blobs) <= 5 * KIB
    assert all(cache.find(blob.digest) for blob in image.blobs), "the newest stay"


MISUSES = [
    ("oci:/nowhere", "no such folder"),
    ("docker-archive:/nowhere", "no such file"),
    ("ftp:x", "docker, podman, oci:DIR"),
    ("oci:{tmp}/empty", "no index.json"),
    ("docker-archive:{tmp}/noise", "not a tar archive"),
    ("docker-archive:{tmp}/cut", "incomplete|shorter"),
    ("docker-archive:{tmp}/other", "no manifest.json"),
    ("docker-archive:{tmp}/lacks", "the archive has no"),
    ("docker-archive:{tmp}/two", "no image named app:1"),
]


@pytest.mark.parametrize(("source", "words"), MISUSES)
def test_invalid_sources(source: str, words: str, tmp_path: Path, loader: Loader) -> None:
    """Each invalid source gives an error message, not a stack trace."""
    whole = docker_archive("app:1", [layer("a", 40 * KIB)])
    (tmp_path / "empty").mkdir()
    (tmp_path / "noise").write_bytes(b"x" * 2000)
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "other").write_bytes(tarball({"file": b"x"}))
    lacks = [{"Config": "c", "RepoTags": None, "Layers": ["l"]}]
    (tmp_path / "lacks").write_bytes(tarball({"manifest.json": json.dumps(lacks).encode()}))
    two = [{"Config": "c", "RepoTags": [tag], "Layers": []} for tag in ("a:1", "b:1")]
    (tmp_path / "two").write_bytes(tarball({"manifest.json": json.dumps(two).encode()}))
    with pytest.raises(Failure, match=words):
        loader.load(source.replace("{tmp}", str(tmp_path)), "app:1")


# The names of the images of an archive, the name that is asked for, and the position of the image that it means.
NAMES: list[tuple[list[list[str]], str, int | None]] = [
    ([["app:1"]], "app:1", 0),
    ([["app:1"]], "other:1", None),
    ([["app:1"]], "app:2", None),
    ([["app:latest"]], "app", 0),
    ([[]], "any:1", 0),
    ([["app:1"], ["app:2"]], "app:2", 1),
    ([["app:1"], []], "other:1", None),
    ([[], []], "app:1", None),
    ([["docker.io/library/app:1"]], "app:1", 0),
    ([["localhost/app:1"]], "app:1", 0),
    ([["app:1"]], "docker.io/library/app:1", 0),
    ([["r.example/team/app:1"]], "app:1", None),
]


@pytest.mark.parametrize(("names", "asked", "position"), NAMES)
def test_a_name_never_means_another_image(
    names: list[list[str]], asked: str, position: int | None, tmp_path: Path, loader: Loader
) -> None:
    """The name selects its image; for a wrong name the message lists the names that the archive has."""
    files = {f"c{at}.json": json.dumps({"at": at}).encode() for at in range(len(names))}
    entries = [{"Config": f"c{at}.json", "RepoTags": each or None, "Layers": []} for at, each in enumerate(names)]
    path = tmp_path / "image.tar"
    path.write_bytes(tarball({"manifest.json": json.dumps(entries).encode(), **files}))
    if position is None:
        with pytest.raises(Misused, match=f"has no image named {asked}; it has ") as caught:
            loader.load(f"docker-archive:{path}", asked)
        assert all(name in str(caught.value) for each in names for name in each)
    else:
        [config_blob] = loader.load(f"docker-archive:{path}", asked).blobs
        assert json.loads(config_blob.content.read()) == {"at": position}


FULL = "io.containerd.image.name"
TAG = "org.opencontainers.image.ref.name"
ANNOTATIONS: list[tuple[list[dict[str, str]], str, int | str]] = [
    ([{TAG: "1"}], "app:1", 0),
    ([{TAG: "1"}], "1", 0),
    ([{TAG: "1"}], "app:2", "has no image named app:2; it has 1"),
    ([{}], "app:1", 0),
    ([{TAG: "1"}, {TAG: "2"}], "app:2", 1),
    ([{TAG: "1"}, {}], "app:1", 0),
    ([{TAG: "1", FULL: "docker.io/library/other:1"}], "app:1", "it has 1, docker.io/library/other:1"),
    ([{TAG: "1", FULL: "docker.io/library/a:1"}, {TAG: "1", FULL: "docker.io/library/b:1"}], "b:1", 1),
    ([{TAG: "1", FULL: "docker.io/library/a:1"}, {TAG: "1", FULL: "docker.io/library/b:1"}], "1", "2 images named 1"),
]


@pytest.mark.parametrize(("annotations", "asked", "expected"), ANNOTATIONS)
def test_a_tag_never_means_another_image(
    annotations: list[dict[str, str]], asked: str, expected: int | str, tmp_path: Path, loader: Loader
) -> None:
    """The tag of a layout's image counts only if the layout does not say the name of that image."""
    layout = OciLayout(tmp_path / "layout")
    images = [layout.add_image([layer(str(at), KIB)]) for at in range(len(annotations))]
    entries = [{**image, "annotations": each} for image, each in zip(images, annotations, strict=True)]
    (layout.folder / "index.json").write_text(json.dumps({"manifests": entries}))
    if isinstance(expected, str):
        with pytest.raises(Misused, match=expected):
            loader.load(f"oci:{layout.folder}", asked)
    else:
        assert loader.load(f"oci:{layout.folder}", asked).digest == images[expected]["digest"]


def test_the_docker_daemon(tmp_path: Path, loader: Loader, said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """`docker save` saves the image that was asked for, whatever it is called; the report begins before its output."""
    content = layer("a", KIB)
    (tmp_path / "image.tar").write_bytes(docker_archive("app:1", [content]))
    program = tmp_path / "docker"
    program.write_text(f'#!/bin/sh\nif [ "$1" = save ]; then cat {tmp_path}/image.tar; else echo sha256:1; fi\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    image = loader.load("docker", "sha256:0123")
    assert layers_of(image) == [content]
    events = [json.loads(line) for line in said.getvalue().splitlines()]
    assert events[0] == {"event": "begin", "label": "docker save", "size": None}
    assert {"event": "end", "label": "docker save", "outcome": "read"} in events


def test_a_layout_with_a_missing_blob(tmp_path: Path, loader: Loader) -> None:
    """An image with a missing blob is not pushed, since nobody could pull it."""
    layout = OciLayout(tmp_path / "layout")
    layout.tag("1", layout.add_image([b"gone"]))
    (layout.folder / "blobs/sha256" / digest_of(b"gone")[7:]).unlink()
    with pytest.raises(Misused, match="has no blob"):
        loader.load(f"oci:{layout.folder}", "app:1")


def test_a_digest_is_no_path(tmp_path: Path, loader: Loader) -> None:
    """A digest with a path in it, in an untrusted layout, does not read other files."""
    layout = OciLayout(tmp_path / "layout")
    index = {"manifests": [{"digest": "sha256:../../../secret", "size": 1, "mediaType": "x"}]}
    (layout.folder / "index.json").write_text(json.dumps(index))
    (tmp_path / "secret").write_text("{}")
    with pytest.raises(Misused, match="is not a digest"):
        loader.load(f"oci:{layout.folder}", "app:1")
