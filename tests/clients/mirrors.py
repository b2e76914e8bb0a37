"""Clients that copy from one registry to another, and push nothing of their own."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from .target import WRITER
from .tools import CHUNK, NO_REFERRERS, Lab, Tool

COPIES_ONLY = "imagetools only copies and shows images of a registry"


class Regsync(Tool):
    """Of regclient: follows a file of what to copy."""

    title, source = "regsync", "github.com/regclient/regclient/cmd/regsync"
    limits: ClassVar[Mapping[str, str]] = {
        "login": "regsync reads credentials from its file",
        "tags": "regsync has no command that lists the tags of a registry (`regsync --help`)",
        "delete": "regsync has no command that deletes in a registry (`regsync --help`)",
    }

    def prepare(self, lab: Lab) -> None:
        """The credentials stand in each file."""

    def _sync(self, lab: Lab, source: str, target: str, **options: object) -> None:
        credentials: dict[str, object] = {
            "registry": lab.host,
            "user": WRITER.name,
            "pass": WRITER.password,
            "tls": "disabled",
        }
        credentials |= {"blobChunk": CHUNK, "blobMax": CHUNK}
        step = {"source": source, "target": target, "type": "image", **options}
        path = lab.folder / "sync.json"  # YAML, too
        path.write_text(json.dumps({"version": 1, "creds": [credentials], "sync": [step]}))
        self.run("once", "--config", str(path))

    def _push(self, lab: Lab, source: Path, image: str) -> None:
        self._sync(lab, f"ocidir://{source}:1", image)

    def _pull(self, lab: Lab, image: str) -> str:
        target = lab.folder / "pulled"
        self._sync(lab, image, f"ocidir://{target}:1")
        [entry] = json.loads((target / "index.json").read_bytes())["manifests"]
        return str(entry["digest"])

    def _copy(self, lab: Lab, source: str, target: str) -> None:
        self._sync(lab, source, target)

    def referrers(self, lab: Lab) -> None:
        """What is attached to an image goes along."""
        digest = lab.push_base(lab.name)
        note = lab.attach(digest)
        self._sync(lab, lab.image(), lab.image("1", "/copy"), referrers=True)
        status, body = lab.ask("GET", f"{lab.name}/copy/referrers/{digest}")
        assert (status, [one["digest"] for one in json.loads(body)["manifests"]]) == (200, [note])

    def chunks(self, lab: Lab) -> None:
        """A layer in several PATCHes."""
        source, digest = lab.layout()
        with lab.registry.requests() as requests:
            self._push(lab, source, lab.image())
        lab.check_manifest(digest)
        assert requests.get("PATCH /v2/<name>/blobs/uploads/<id>", 2) >= 2, requests


class Buildx(Tool):
    """`docker buildx imagetools`: needs no daemon."""

    title, source = "docker buildx imagetools", "github.com/docker/buildx"
    is_newest = True
    limits: ClassVar[Mapping[str, str]] = {
        "login": "imagetools reads docker's configuration, which `docker login` writes",
        "push_and_pull": COPIES_ONLY,
        "tags": "no command lists the tags of a registry",
        "referrers": NO_REFERRERS,
        "delete": "no command deletes in a registry",
        "chunks": "buildx pushes with containerd, which sends a blob as one PUT",
    }

    def prepare(self, lab: Lab) -> None:
        """Write what `docker login` writes."""
        lab.write_docker_credentials(self.client)

    def index(self, lab: Lab) -> None:
        """An index of two images, looked at again."""
        digest = lab.push_base(lab.name)
        children = [entry["digest"] for entry in lab.check_manifest(digest)["manifests"]]
        images = [f"{lab.host}/{lab.name}@{child}" for child in children]
        self.run("imagetools", "create", "--tag", lab.image("2"), *images)
        made = lab.check_manifest(lab.pushed("2"), "2")
        assert [entry["digest"] for entry in made["manifests"]] == children
        shown = self.run("imagetools", "inspect", lab.image("2"))
        assert re.findall("@(sha256:[0-9a-f]+)", shown) == children

    def copy(self, lab: Lab) -> None:
        """To another repository, with its children."""
        digest = lab.push_base(lab.name)
        self.run("imagetools", "create", "--tag", lab.image("2", "/copy"), lab.image())
        lab.check_manifest(digest, "2", "/copy")
