"""Reads images from docker, podman, OCI layouts, docker archives and OCI archives."""

import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from registry_push.archives import Contents, blob_path, members_of_file, members_of_stream, parse_document
from registry_push.cache import Cache
from registry_push.compression import Compression, compress
from registry_push.failures import Failure, Misused
from registry_push.images import Blob, Manifest, digest_of, make_manifest, read_manifest
from registry_push.progress import Report
from registry_push.slices import Slice, whole
from registry_push.untrusted_json import LARGEST_DOCUMENT

_SAVE = {"docker": ("docker", "save"), "podman": ("podman", "save", "--quiet", "--format", "docker-archive")}
_NAMES = ("org.opencontainers.image.ref.name", "io.containerd.image.name")  # annotations of a layout's entries
# Whether the file or folder of a source exists.
_IS_THERE: Mapping[str, Callable[[Path], bool]] = {
    "oci": Path.is_dir,
    "docker-archive": Path.is_file,
    "oci-archive": Path.is_file,
}
_LISTED_NAMES = 20  # names of an archive's images that an error message lists

# A layer to push, with its media type.
Layer = tuple[Blob, str]


@dataclass(frozen=True, slots=True)
class Loader:
    """Reads images and compresses uncompressed layers. It takes results of earlier runs from the cache.

    Its methods block: call them in a thread.
    """

    cache: Cache
    compression: Compression
    report: Report

    def load(self, source: str, image: str) -> Manifest:
        """Read `image` from `source`: docker, podman, oci:DIR, docker-archive:FILE or oci-archive:FILE.

        Raises Misused when the source is missing or malformed.
        """
        check_source(source)
        kind, _, place = source.partition(":")
        if kind in _SAVE:
            return self._from_engine(kind, image)
        path = Path(place)
        if kind == "oci":
            return _from_layout(path, image)
        if kind == "docker-archive":
            return self._from_docker_archive(path, image)
        contents = Contents(members_of_file(path, self.cache.scratch))
        return _chosen(contents.document("index.json"), image, contents.find_blob)

    def _from_engine(self, engine: str, image: str) -> Manifest:
        identity = _run(engine, "image", "inspect", "--format", "{{.Id}}", image).strip()
        about = f"{engine} {identity} {self.compression}"
        if (known := self._recall(about)) is not None:
            return known
        label = f"{engine} save"
        self.report.begin(label, None)
        with _output_of(*_SAVE[engine], image) as stream:
            counted = _Counted(stream, lambda count: self.report.advance(label, count))
            contents = Contents(members_of_stream(counted, self.cache.scratch), self._prepare)
        self.report.end(label, "read")
        return self._from_docker_contents(contents, None, about)

    def _from_docker_archive(self, path: Path, image: str) -> Manifest:
        status = path.stat()
        about = (
            f"archive {path.resolve()} {status.st_ino} {status.st_size} {status.st_mtime_ns} {image} {self.compression}"
        )
        if (known := self._recall(about)) is not None:
            return known
        return self._from_docker_contents(Contents(members_of_file(path, self.cache.scratch)), image, about)

    def _from_docker_contents(self, contents: Contents, image: str | None, about: str) -> Manifest:
        """Read the image of an archive that is named `image`; without a name, the archive's only image."""
        entries = contents.document("manifest.json")
        if not isinstance(entries, list):
            raise Misused(
                "the archive has no manifest.json, so docker save did not write it; OCI layouts need oci-archive:FILE"
            )
        try:
            entry = _entry_of(entries, image)
            config_name, layer_names = str(entry["Config"]), [str(name) for name in entry["Layers"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise Misused(f"the archive's manifest.json is malformed ({error!r})") from None
        config = contents.find(config_name)
        if config is None:
            raise Misused(f"the archive has no {config_name}: it is incomplete")
        if config.size > LARGEST_DOCUMENT:
            raise Misused(f"{config_name} has {config.size} bytes: too many for the config of an image")
        layers = [self._layer(contents, name) for name in layer_names]
        return self._note(about, config.read(), layers)

    def _layer(self, contents: Contents, name: str) -> Layer:
        prepared: Layer | None = contents.prepared.get(contents.resolve(name))
        if prepared is not None:
            return prepared
        content = contents.find(name)
        if content is None:
            raise Misused(f"the archive has no {name}: it is incomplete")
        return self._prepare(content)

    def _prepare(self, layer: Slice) -> Layer:
        """The layer to push, from the cache or compressed now."""
        digest = layer.digest()
        about = f"layer {digest} {self.compression}"
        known = self.cache.recall(about)
        if (found := self._cached(known)) is not None:
            return found
        label = f"compress {digest[7:19]}"
        self.report.begin(label, layer.size)
        target = Path(tempfile.mktemp(dir=self.cache.scratch))  # noqa: S306 - only this run uses the folder
        made = compress(layer, target, self.compression, lambda count: self.report.advance(label, count))
        self.report.end(label, "compressed")
        self.cache.note(about, {"digest": made.digest, "size": made.size, "type": made.media_type})
        return Blob(made.digest, self.cache.add(target, made.digest)), made.media_type

    def _cached(self, known: Mapping[str, Any]) -> Layer | None:
        if not known:
            return None
        content = self.cache.find(known["digest"], known["size"])
        return None if content is None else (Blob(known["digest"], content), known["type"])

    # ------------------------------------------------------------------ whole images
    def _note(self, about: str, config: bytes, layers: Sequence[Layer]) -> Manifest:
        """Make the manifest of an image, and note its parts in the cache so that the next run skips the image."""
        target = self.cache.scratch / "config"
        target.write_bytes(config)
        kept = Blob(digest_of(config), self.cache.add(target, digest_of(config)))
        noted = [{"digest": blob.digest, "size": blob.content.size, "type": media} for blob, media in layers]
        self.cache.note(about, {"config": kept.digest, "layers": noted})
        return make_manifest(kept, list(layers))

    def _recall(self, about: str) -> Manifest | None:
        known = self.cache.recall(about)
        config = self.cache.find(known["config"]) if known else None
        if config is None:
            return None
        layers = [layer for each in known["layers"] if (layer := self._cached(each)) is not None]
        if len(layers) < len(known["layers"]):
            return None
        return make_manifest(Blob(known["config"], config), layers)


def check_source(source: str) -> None:
    """Check that the argument of --from is well-formed and that its file or folder exists; raises Misused."""
    kind, _, place = source.partition(":")
    if source not in _SAVE and kind not in _IS_THERE:
        raise Misused(
            f"--from {source}: unknown source; use docker, podman, oci:DIR, docker-archive:FILE or oci-archive:FILE"
        )
    if kind in _IS_THERE and not (place and _IS_THERE[kind](Path(place))):
        raise Misused(f"{place or source}: no such {'folder' if kind == 'oci' else 'file'}")


def _from_layout(folder: Path, image: str) -> Manifest:
    def find(digest: str) -> Slice | None:
        path = folder / blob_path(digest)
        return whole(path) if path.is_file() else None

    index = folder / "index.json"
    if not index.is_file():
        raise Misused(f"{folder} is no OCI layout: it has no index.json")
    return _chosen(parse_document(str(index), whole(index)), image, find)


def _chosen(index: Any, image: str, find: Callable[[str], Slice | None]) -> Manifest:
    """The image of a layout with the given name; also its only image if that has no name."""
    try:
        entries = list(index["manifests"])
        return read_manifest(entries[_position([_names_of(entry) for entry in entries], image, "layout")], find)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Misused(f"the layout's index or a manifest is malformed ({error!r})") from None


def _names_of(entry: Mapping[str, Any]) -> list[str]:
    annotations = entry.get("annotations") or {}
    return [str(annotations[key]) for key in _NAMES if key in annotations]


def _entry_of(entries: Sequence[Mapping[str, Any]], image: str | None) -> Mapping[str, Any]:
    """The entry of a manifest.json with the given name; also its only entry if that or `image` has no name."""
    if image is None and len(entries) == 1:
        return entries[0]
    names = [[str(tag) for tag in entry.get("RepoTags") or []] for entry in entries]
    return entries[_position(names, image or "", "archive")]


def _position(names: Sequence[Sequence[str]], image: str, kind: str) -> int:
    """The position of the image that is named `image`, given the names of each image of an archive or layout.

    An only image without a name is the image. Raises Misused otherwise: another image must not be pushed instead.
    """
    if len(names) == 1 and not names[0]:
        return 0
    found = [at for at, each in enumerate(names) if image in each] or [
        at for at, each in enumerate(names) if _are_names_of(each, image)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise Misused(f"the {kind} has {len(found)} images named {image}: pass the full name of one")
    listed = list(dict.fromkeys(name for each in names for name in each))
    more = f" and {len(listed) - _LISTED_NAMES} more" if len(listed) > _LISTED_NAMES else ""
    there = f"{', '.join(listed[:_LISTED_NAMES])}{more}" if listed else f"{len(names)} images without a name"
    raise Misused(
        f"the {kind} has no image named {image}; it has {there}: pass one of its names, and the target as --to"
    )


def _are_names_of(names: Sequence[str], image: str) -> bool:
    """Whether the names of an entry include `image`. Tags alone count only for an entry without a full name."""
    full = [name for name in names if "/" in name or ":" in name]
    if full:
        return _familiar(image) in map(_familiar, full)
    return with_tag(image).rpartition(":")[2] in names


def _familiar(image: str) -> str:
    """An image's name with its tag, without the parts that engines add: docker.io/library/ and localhost/."""
    name = image.removeprefix("localhost/")
    if name.startswith("docker.io/"):
        name = name.removeprefix("docker.io/").removeprefix("library/")
    return with_tag(name)


def with_tag(image: str) -> str:
    """An image's name with its tag; the default is `latest`."""
    return image if ":" in image.rpartition("/")[2] else f"{image}:latest"


# ---------------------------------------------------------------------- programs
def _run(*command: str) -> str:
    with _output_of(*command) as stream:
        return stream.read().decode()


@contextmanager
def _output_of(*command: str) -> Iterator[IO[bytes]]:
    """The standard output of a program; raises Failure with its standard error when it fails."""
    with tempfile.TemporaryFile() as complaints:
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints)  # noqa: S603
        except OSError as error:
            raise Misused(f"cannot run {command[0]} ({error}); choose another source with --from") from None
        with process:
            assert process.stdout is not None
            try:
                yield process.stdout
                # Drain the padding after the archive's end: the program blocks until it is read.
                while process.stdout.read(65536):
                    pass
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            complaints.seek(0)
            words = complaints.read().decode(errors="replace").strip()
            raise Failure(f"{' '.join(command)}: {words or f'exit code {process.returncode}'}")


class _Counted:
    """A stream that reports how many bytes were read."""

    def __init__(self, stream: IO[bytes], on_read: Callable[[int], None]) -> None:
        self._stream = stream
        self._on_read = on_read

    def read(self, size: int = -1, /) -> bytes:
        """Read at most `size` bytes."""
        data = self._stream.read(size)
        self._on_read(len(data))
        return data
