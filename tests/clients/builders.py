"""Clients that build what they push."""

from collections.abc import Mapping
from typing import ClassVar

from .images import OCI_INDEX, noise
from .target import WRITER
from .tools import Lab, Tool

BUILDS_ONLY = "the client pushes what it builds, and has no command for this"


class Ko(Tool):
    """Builds Go programs without docker."""

    title, source = "ko", "github.com/google/ko"
    limits: ClassVar[Mapping[str, str]] = {
        "copy": BUILDS_ONLY,
        "tags": BUILDS_ONLY,
        "referrers": BUILDS_ONLY,
        "delete": BUILDS_ONLY,
        "chunks": "ko pushes with go-containerregistry, which sends a layer as one PATCH",
    }

    def _log_in(self, lab: Lab, password: str) -> None:
        # It only writes the credentials down: building shows whether they are right.
        self.run("login", lab.host, "--username", WRITER.name, "--password-stdin", stdin=password)
        self._build(lab, "login", "linux/amd64")

    def push_and_pull(self, lab: Lab) -> None:
        """An image on a base from the registry."""
        self._build(lab, "1", "linux/amd64")
        assert len(lab.check_manifest(lab.pushed())["layers"]) == 3

    def index(self, lab: Lab) -> None:
        """For two architectures."""
        self._build(lab, "1", "linux/amd64,linux/arm64")
        assert len(lab.check_manifest(lab.pushed())["manifests"]) == 2

    def _build(self, lab: Lab, tag: str, platforms: str) -> None:
        source = lab.folder / "source"
        source.mkdir(exist_ok=True)
        (source / "go.mod").write_text("module example.com/tiny\n\ngo 1.22\n")
        (source / "main.go").write_text('package main\n\nfunc main() { println("hi") }\n')
        lab.push_base(f"{lab.name}/base")
        settings = {"KO_DOCKER_REPO": f"{lab.host}/{lab.name}", "KO_DEFAULTBASEIMAGE": f"{lab.host}/{lab.name}/base:1"}
        options = ("--bare", "--insecure-registry", "--sbom=none", "--tags", tag, "--platform", platforms)
        self.client.inside(source, settings).succeeds("build", *options, ".")


class Buildctl(Tool):
    """BuildKit: its daemon and `buildctl`."""

    title, source = "BuildKit (buildctl)", "github.com/moby/buildkit"
    limits: ClassVar[Mapping[str, str]] = {
        "login": "buildctl reads docker's configuration, which `docker login` writes",
        "copy": BUILDS_ONLY,
        "tags": BUILDS_ONLY,
        "referrers": BUILDS_ONLY,
        "delete": BUILDS_ONLY,
        "chunks": "BuildKit pushes with containerd, which sends a blob as one PUT",
    }

    def prepare(self, lab: Lab) -> None:
        """Write what `docker login` writes."""
        lab.write_docker_credentials(self.client)

    def push_and_pull(self, lab: Lab) -> None:
        """A build, pushed; another one on top of it, which pulls it; and its cache, which goes there and comes back."""
        self.build(lab, "FROM scratch\nCOPY file /first\n", f"name={lab.image()},push=true")
        assert len(lab.check_manifest(lab.pushed())["layers"]) == 1
        self.run("prune", "--all")
        second = f"FROM {lab.image()}\nCOPY file /second\n", f"name={lab.image('2')},push=true"
        cache = f"type=registry,ref={lab.image('cache')}"
        self.build(lab, *second, "--export-cache", f"{cache},mode=max")
        assert len(lab.check_manifest(lab.pushed("2"), "2")["layers"]) == 2
        assert lab.pushed("cache")
        self.run("prune", "--all")
        self.build(lab, *second, "--import-cache", cache)

    def index(self, lab: Lab) -> None:
        """Two architectures, and the provenance of each: attestations are further entries of the index."""
        options = ("--opt", "platform=linux/amd64,linux/arm64", "--opt", "attest:provenance=mode=min")
        self.build(
            lab, "FROM scratch\nCOPY file /file\n", f"name={lab.image()},push=true,oci-mediatypes=true", *options
        )
        document = lab.check_manifest(lab.pushed())
        assert document["mediaType"] == OCI_INDEX
        platforms = sorted(entry["platform"]["architecture"] for entry in document["manifests"])
        assert platforms == ["amd64", "arm64", "unknown", "unknown"]

    def build(self, lab: Lab, dockerfile: str, output: str, *options: str) -> str:
        """Build, and do with the image what `output` says; what was printed meanwhile."""
        context = lab.folder / "context"
        context.mkdir(exist_ok=True)
        (context / "Dockerfile").write_text(dockerfile)
        (context / "file").write_bytes(noise(lab.name, 300_000))
        local = ("--local", f"context={context}", "--local", f"dockerfile={context}")
        output = f"type=image,{output}"
        command = ("build", "--progress=plain", "--frontend=dockerfile.v0", *local, *options, "--output", output)
        return self.client.succeeds(*command).stderr
