"""Clients that keep images in a store of their own: docker, podman, buildah, containerd."""

import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from .images import MIB, OCI_INDEX
from .processes import Client
from .target import WRITER
from .tools import NO_REFERRERS, PATCH_AT_ONCE, Lab, Tool

NO_LISTING = "no command lists the tags of a registry"
NO_DELETING = "no command deletes in a registry"


class Docker(Tool):
    """Debian's dockerd 20.10 with its own client."""

    title, source = "docker 20.10", "Debian 12"
    limits: ClassVar[Mapping[str, str]] = {
        "tags": NO_LISTING,
        "referrers": NO_REFERRERS,
        "delete": NO_DELETING,
        "chunks": "dockerd sends a layer as one PATCH of unknown length (seen on the wire)",
    }
    keeps_indexes: ClassVar[bool] = False  # what a pulled index is called: the index, or the image that it led to

    def _log_in(self, lab: Lab, password: str) -> None:
        self.run("login", "--username", WRITER.name, "--password-stdin", lab.host, stdin=password)

    def _load(self, lab: Lab, image: str) -> str:
        self.run("load", "--input", str(lab.archive(image)))
        return self._image_id(image)

    def _image_id(self, image: str) -> str:
        return self.run("image", "inspect", "--format", "{{.Id}}", image).strip()

    def push_and_pull(self, lab: Lab) -> None:
        """The image's ID covers every layer's digest."""
        made = self._load(lab, lab.image())
        self.run("push", lab.image())
        assert lab.pushed()
        self.run("rmi", lab.image())
        self.run("pull", lab.image())
        assert self._image_id(lab.image()) == made

    def index(self, lab: Lab) -> None:
        """A manifest list is made of two pushed images; pulling it takes the one of this machine."""
        made = self._load(lab, lab.image("amd64"))
        self._load(lab, lab.image("other"))
        for tag in ("amd64", "other"):
            self.run("push", lab.image(tag))
        self.run("manifest", "create", "--insecure", lab.image(), lab.image("amd64"), lab.image("other"))
        self.run("manifest", "annotate", "--arch", "arm64", lab.image(), lab.image("other"))
        self.run("manifest", "push", "--insecure", lab.image())
        assert lab.pushed()
        self.run("rmi", lab.image("amd64"))
        self.run("pull", lab.image())
        assert self._image_id(lab.image()) == (lab.pushed() if self.keeps_indexes else made)

    def copy(self, lab: Lab) -> None:
        """A second name of an image: its layers are mounted."""
        self._load(lab, lab.image())
        self.run("push", lab.image())
        self.run("tag", lab.image(), lab.image("2", "/copy"))
        with lab.registry.counted() as counts:
            output = self.run("push", lab.image("2", "/copy"))
        assert "Mounted from" in output, output
        assert lab.pushed("2", "/copy") == lab.pushed()
        assert counts.get("written", 0) < MIB


class Docker29(Docker):
    """The newest dockerd, which keeps images in containerd's store; with Debian's client."""

    title, source = "docker 29 (dockerd, containerd's store)", "github.com/moby/moby/v2"
    is_newest = True
    limits: ClassVar[Mapping[str, str]] = {
        **Docker.limits,
        "chunks": "dockerd 29 pushes with containerd, which sends a blob as one PUT",
    }
    keeps_indexes = True


class Podman(Tool):
    """Rootful, with plain copies for storage."""

    title, source = "podman 4.3", "Debian 12"
    limits: ClassVar[Mapping[str, str]] = {
        "referrers": NO_REFERRERS,
        "delete": NO_DELETING,
        "chunks": PATCH_AT_ONCE,
    }
    plain = "--tls-verify=false"

    def _log_in(self, lab: Lab, password: str) -> None:
        self.run("login", self.plain, "--username", WRITER.name, "--password-stdin", lab.host, stdin=password)

    def _load(self, lab: Lab, image: str) -> None:
        self.run("load", "--input", str(lab.archive(image)))

    def _image_id(self, image: str) -> str:
        return self.run("image", "inspect", "--format", "{{.Id}}", image).strip()

    def push_and_pull(self, lab: Lab) -> None:
        """The image's ID covers every layer's digest."""
        self._load(lab, lab.image())
        made = self._image_id(lab.image())
        self.run("push", self.plain, lab.image())
        assert lab.pushed()
        self.run("rmi", lab.image())
        self.run("pull", self.plain, lab.image())
        assert self._image_id(lab.image()) == made

    def index(self, lab: Lab) -> None:
        """An index of two images, pushed with both."""
        for tag in ("one", "two"):
            self._load(lab, lab.image(tag))
        self.run("manifest", "create", "both")
        self.run("manifest", "add", "both", f"containers-storage:{lab.image('one')}")
        self.run("manifest", "add", "--arch", "arm64", "both", f"containers-storage:{lab.image('two')}")
        self.run("manifest", "push", "--all", self.plain, "both", f"docker://{lab.image()}")
        document = lab.check_manifest(lab.pushed())
        assert len(document["manifests"]) == 2

    def copy(self, lab: Lab) -> None:
        """A second name of an image: its layers are mounted."""
        self._load(lab, lab.image())
        self.run("push", self.plain, lab.image())
        self.run("tag", lab.image(), lab.image("2", "/copy"))
        with lab.registry.counted() as counts:
            self.run("push", self.plain, lab.image("2", "/copy"))
        assert lab.pushed("2", "/copy")
        assert counts.get("written", 0) < MIB, "mounted, not uploaded"

    def tags(self, lab: Lab) -> None:
        """`podman search` lists what a registry has."""
        for tag in ("1", "2"):
            self._load(lab, lab.image(tag))
            self.run("push", self.plain, lab.image(tag))
        found = self.run("search", "--list-tags", self.plain, f"{lab.host}/{lab.name}")
        assert [line.split()[1] for line in found.splitlines()] == ["TAG", "1", "2"], found


class Buildah(Podman):
    """Builds, and pushes as podman does."""

    title, source = "buildah 1.28", "Debian 12"
    limits: ClassVar[Mapping[str, str]] = {**Podman.limits, "tags": NO_LISTING}

    def _load(self, lab: Lab, image: str) -> None:
        file = lab.folder / "file"
        file.write_text(image)
        container = self.run("from", "scratch").strip()
        self.run("copy", container, str(file), "/file")
        self.run("commit", "--rm", container, image)

    def _image_id(self, image: str) -> str:
        return self.run("inspect", "--type", "image", "--format", "{{.FromImageID}}", image).strip()


class Containerd(Tool):
    """Debian's containerd with its `ctr`."""

    title, source = "containerd 1.6 (ctr)", "Debian 12"
    limits: ClassVar[Mapping[str, str]] = {
        "login": "ctr takes `--user` with each command",
        "tags": NO_LISTING,
        "referrers": NO_REFERRERS,
        "delete": NO_DELETING,
        "chunks": "containerd sends a blob as one PUT (`remotes/docker/pusher.go`)",
    }
    plain = ("--plain-http", "--user", WRITER.credentials)

    def prepare(self, lab: Lab) -> None:
        """There is no login."""

    def _push(self, lab: Lab, source: Path, image: str) -> None:
        archive = lab.folder / "layout.tar"
        # A layout as a tar is what `ctr images import` takes.
        self._tar(source, archive)
        name = image.rpartition(":")[0]
        self.run("images", "import", "--all-platforms", "--no-unpack", "--base-name", name, str(archive))
        self.run("images", "push", *self.plain, image)

    @staticmethod
    def _tar(source: Path, archive: Path) -> None:
        with tarfile.open(archive, "w") as tar:
            for path in sorted(source.rglob("*")):
                tar.add(path, str(path.relative_to(source)), recursive=False)

    def _pull(self, lab: Lab, image: str) -> str:
        self.run("images", "rm", "--sync", image)
        self.run("content", "fetch", "--all-platforms", *self.plain, image)
        [line] = [line for line in self.run("images", "ls").splitlines() if line.startswith(image)]
        return line.split()[2]

    def index(self, lab: Lab) -> None:
        """With all of its images."""
        source, digest = lab.index_layout()
        assert json.loads((source / "index.json").read_text())["manifests"][0]["mediaType"] == OCI_INDEX
        self._push(lab, source, lab.image())
        lab.check_manifest(digest)
        assert self._pull(lab, lab.image()) == digest

    def _copy(self, lab: Lab, source: str, target: str) -> None:
        self._pull(lab, source)
        self.run("images", "tag", source, target)
        self.run("images", "push", *self.plain, target)


class Containerd2(Containerd):
    """The newest containerd with its `ctr`: parallel ranges of a layer, the transfer service."""

    title, source = "containerd 2 (ctr)", "github.com/containerd/containerd/v2"

    def __init__(self, client: Client) -> None:
        """No pull yet."""
        super().__init__(client)
        self.ranges: list[int] = []  # requests for blobs of each pull

    def _pull(self, lab: Lab, image: str) -> str:
        # By the transfer service, which takes a large layer in several ranges at once (see `run_containerd`).
        self.run("images", "rm", "--sync", image)
        with lab.registry.requests() as requests:
            self.run("images", "pull", "--all-platforms", "--snapshotter", "native", *self.plain, image)
        self.ranges.append(requests.get("GET /v2/<name>/blobs/<digest>", 0))
        [line] = [line for line in self.run("images", "ls").splitlines() if line.startswith(image)]
        return line.split()[2]

    def push_and_pull(self, lab: Lab) -> None:
        """A layer of 9 MiB in several requests."""
        super().push_and_pull(lab)
        assert self.ranges[-1] > 8, self.ranges
