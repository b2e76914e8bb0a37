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
        kind, _, place = source.partition(":")
        if source in _SAVE:
            return self._from_engine(source, image)
        path = Path(place)
        match kind:
            case "oci" if path.is_dir():
                return _from_layout(path, image)
            case "docker-archive" if path.is_file():
                return self._from_docker_archive(path, image)
            case "oci-archive" if path.is_file():
                contents = Contents(members_of_file(path, self.cache.scratch))
                return _chosen(contents.document("index.json"), image, contents.find_blob)
            case "oci" | "docker-archive" | "oci-archive":
                raise Misused(f"{place or source}: no such {'folder' if kind == 'oci' else 'file'}")
        raise Misused(
            f"--from {source}: unknown source; use docker, podman, oci:DIR, docker-archive:FILE or oci-archive:FILE"
        )

    def _from_engine(self, engine: str, image: str) -> Manifest:
        identity = _run(engine, "image", "inspect", "--format", "{{.Id}}", image).strip()
        about = f"{engine} {identity} {self.compression}"
        if (known := self._recall(about)) is not None:
            return known
        with _output_of(*_SAVE[engine], image) as stream:
            contents = Contents(members_of_stream(stream, self.cache.scratch), self._prepare)
        return self._from_docker_contents(contents, image, about)

    def _from_docker_archive(self, path: Path, image: str) -> Manifest:
        status = path.stat()
        about = f"{path.resolve()} {status.st_ino} {status.st_size} {status.st_mtime_ns} {image} {self.compression}"
        if (known := self._recall(about)) is not None:
            return known
        return self._from_docker_contents(Contents(members_of_file(path, self.cache.scratch)), image, about)

    def _from_docker_contents(self, contents: Contents, image: str, about: str) -> Manifest:
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


def _from_layout(folder: Path, image: str) -> Manifest:
    def find(digest: str) -> Slice | None:
        path = folder / blob_path(digest)
        return whole(path) if path.is_file() else None

    index = folder / "index.json"
    if not index.is_file():
        raise Misused(f"{folder} is no OCI layout: it has no index.json")
    return _chosen(parse_document(str(index), whole(index)), image, find)


def _chosen(index: Any, image: str, find: Callable[[str], Slice | None]) -> Manifest:
    """The image of a layout with the given name, or its only image."""
    try:
        entries = list(index["manifests"])
        named = [entry for entry in entries if _is_called(entry, image)]
        if not named and len(entries) != 1:
            names = [name for entry in entries for name in _names_of(entry)] or "only images without names"
            raise Misused(f"the layout has no image named {image} or by its tag; it has {names}")
        return read_manifest((named or entries)[0], find)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Misused(f"the layout's index or a manifest is malformed ({error!r})") from None


def _is_called(entry: Mapping[str, Any], image: str) -> bool:
    return any(name in (image, with_tag(image), with_tag(image).rpartition(":")[2]) for name in _names_of(entry))


def _names_of(entry: Mapping[str, Any]) -> list[str]:
    annotations = entry.get("annotations") or {}
    return [annotations[key] for key in _NAMES if key in annotations]


def _entry_of(entries: Sequence[Mapping[str, Any]], image: str) -> Mapping[str, Any]:
    """The entry of a manifest.json with the given name, or its only entry."""
    named = [entry for entry in entries if with_tag(image) in (entry.get("RepoTags") or [])]
    if not named and len(entries) != 1:
        names = [tag for entry in entries for tag in entry.get("RepoTags") or []]
        raise Misused(f"the archive has no image named {image}; it has {names}")
    return (named or entries)[0]


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
