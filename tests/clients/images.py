"""Images for the clients to push: OCI layouts for skopeo, archives for `docker load`.

The same seed gives the same bytes, so that a failure can be looked at again, and no
compressor makes them smaller.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

KIB = 1024
MIB = 1024 * KIB

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"

# The annotation by which skopeo finds TAG in `oci:FOLDER:TAG`.
REF_NAME = "org.opencontainers.image.ref.name"


class Descriptor(TypedDict):
    """The three fields that every descriptor has."""

    mediaType: str
    digest: str
    size: int


def digest_of(content: bytes) -> str:
    """Return the sha256 digest of the bytes as registries write it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def noise(seed: str, size: int) -> bytes:
    """Return bytes that look random."""
    return hashlib.shake_256(seed.encode()).digest(size)


def tarball(files: Mapping[str, bytes]) -> bytes:
    """Return a tar archive: no time, no owner, hence the same for the same files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def layer(seed: str, size: int) -> bytes:
    """Return a layer with one file of `size` bytes, or the empty layer for 0."""
    return tarball({f"{seed}-{size}": noise(seed, size)} if size else {})


def config(layers: Sequence[bytes], architecture: str) -> bytes:
    """Return the configuration of an image with these uncompressed layers."""
    content = {
        "architecture": architecture,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(each) for each in layers]},
    }
    return json.dumps(content).encode()


def docker_archive(tag: str, layers: Sequence[bytes]) -> bytes:
    """Return what `docker load` reads, with the image tagged as `tag`."""
    paths = [f"{digest_of(each)[7:]}/layer.tar" for each in layers]
    entry = {"Config": "config.json", "RepoTags": [tag], "Layers": paths}
    return tarball(
        {
            "manifest.json": json.dumps([entry]).encode(),
            "config.json": config(layers, "amd64"),
            **dict(zip(paths, layers, strict=True)),
        }
    )


class OciLayout:
    """A folder in the OCI image layout: `oci:FOLDER:TAG` for skopeo."""

    def __init__(self, folder: Path) -> None:
        """Begin a layout without images in a new folder."""
        self.folder = folder
        self._blobs = folder / "blobs" / "sha256"
        self._blobs.mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def add_image(self, layers: Sequence[bytes], architecture: str = "amd64") -> Descriptor:
        """Store an image and return its descriptor."""
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self._add_blob(config(layers, architecture), OCI_CONFIG),
            "layers": [self._add_blob(each, OCI_LAYER) for each in layers],
        }
        return self._add_blob(json.dumps(manifest).encode(), OCI_MANIFEST)

    def add_index(self, images: Mapping[str, Descriptor]) -> Descriptor:
        """Store an image index of one image per architecture and return its descriptor."""
        index = {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [
                {**image, "platform": {"architecture": architecture, "os": "linux"}}
                for architecture, image in images.items()
            ],
        }
        return self._add_blob(json.dumps(index).encode(), OCI_INDEX)

    def tag(self, tag: str, descriptor: Descriptor) -> str:
        """Make the image or index the layout's only entry; return its name for skopeo."""
        entry = {**descriptor, "annotations": {REF_NAME: tag}}
        index = {"schemaVersion": 2, "manifests": [entry]}
        (self.folder / "index.json").write_text(json.dumps(index))
        return f"oci:{self.folder}:{tag}"

    def _add_blob(self, content: bytes, media_type: str) -> Descriptor:
        digest = digest_of(content)
        (self._blobs / digest[7:]).write_bytes(content)
        return {"mediaType": media_type, "digest": digest, "size": len(content)}


def entry_digest(folder: Path) -> str:
    """Return the digest of the one image or index that a layout names; some clients list its parts as well."""
    entries = json.loads((folder / "index.json").read_bytes())["manifests"]
    if len(entries) > 1:
        entries = [entry for entry in entries if REF_NAME in entry.get("annotations", {})]
    [entry] = entries
    return str(entry["digest"])


def blobs(folder: Path) -> dict[str, str]:
    """Return the true digest of every blob of a layout, by the name of its file."""
    files = (folder / "blobs" / "sha256").iterdir()
    return {file.name: digest_of(file.read_bytes()) for file in files}
