"""Clients for what is no image: charts and signatures."""

from collections.abc import Mapping
from typing import ClassVar

from .target import WRITER
from .tools import Lab, Tool

CHART = {
    "Chart.yaml": "apiVersion: v2\nname: {name}\nversion: 0.1.0\n",
    "templates/map.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: test\n",
}


class Helm(Tool):
    """Charts."""

    title, source = "helm", "helm.sh/helm/v4"
    limits: ClassVar[Mapping[str, str]] = {
        "index": "a chart has no platforms",
        "copy": "helm has no command that copies between repositories (`helm --help`)",
        "tags": "helm has no command that lists the tags of a registry (`helm --help`)",
        "referrers": "helm has no command for referrers (`helm --help`)",
        "delete": "helm has no command that deletes in a registry (`helm --help`)",
        "chunks": "helm pushes with oras-go, which sends a blob as one PUT",
    }

    def _log_in(self, lab: Lab, password: str) -> None:
        options = ("--plain-http", "--username", WRITER.name, "--password-stdin")
        self.run("registry", "login", *options, lab.host, stdin=password)

    def push_and_pull(self, lab: Lab) -> None:
        """A chart comes back byte for byte, and can be rendered from where it is."""
        chart = lab.folder / "chart"
        for path, content in CHART.items():
            (chart / path).parent.mkdir(parents=True, exist_ok=True)
            (chart / path).write_text(content.format(name="chart"))
        self.run("package", str(chart), "--destination", str(lab.folder))
        made = lab.folder / "chart-0.1.0.tgz"
        url = f"oci://{lab.host}/{lab.name}"
        self.run("push", "--plain-http", str(made), url)
        assert lab.pushed("0.1.0", "/chart")
        pulled = lab.folder / "pulled"
        pulled.mkdir()
        version = ("--plain-http", "--version", "0.1.0")
        self.run("pull", *version, "--destination", str(pulled), f"{url}/chart")
        assert (pulled / made.name).read_bytes() == made.read_bytes()
        assert "ConfigMap" in self.run("template", "release", *version, f"{url}/chart")


class Cosign(Tool):
    """Signatures with a key of one's own, and no transparency log."""

    title, source = "cosign", "github.com/sigstore/cosign/v3"
    limits: ClassVar[Mapping[str, str]] = {
        "push_and_pull": "cosign signs what others pushed",
        "index": "cosign signs what others pushed",
        "tags": "cosign has no command that lists the tags of a registry (`cosign --help`)",
        "delete": "`cosign clean` deletes signatures alone",
        "chunks": "cosign pushes with go-containerregistry, which sends a layer as one PATCH",
    }
    plain = ("--allow-insecure-registry", "--allow-http-registry")

    def _log_in(self, lab: Lab, password: str) -> None:
        # It only writes the credentials down: asking shows whether they are right.
        self.run("login", lab.host, "--username", WRITER.name, "--password-stdin", stdin=password)
        name = f"{lab.name}/login"
        lab.push_base(name)
        self.run("tree", *self.plain, f"{lab.host}/{name}:1")

    def copy(self, lab: Lab) -> None:
        """An image with its children."""
        name = f"{lab.name}/signed"
        digest = lab.push_base(name)
        self.run("copy", *self.plain, f"{lab.host}/{name}:1", lab.image("1", "/copy"))
        lab.check_manifest(digest, "1", "/copy")

    def referrers(self, lab: Lab) -> None:
        """A signature and an attestation: found through the referrers, verified, and with another key not."""
        name = f"{lab.name}/signed"
        digest = lab.push_base(name)
        image = f"{lab.host}/{name}@{digest}"
        ours, other = (str(lab.folder / prefix) for prefix in ("ours", "other"))
        for prefix in (ours, other):
            self.run("generate-key-pair", "--output-key-prefix", prefix)
        quiet = ("--yes", "--tlog-upload=false", "--use-signing-config=false")
        self.run("sign", *quiet, *self.plain, "--key", f"{ours}.key", image)
        offline = ("--insecure-ignore-tlog", "--private-infrastructure", *self.plain)
        self.run("verify", *offline, "--key", f"{ours}.pub", image)
        self.client.fails("verify", *offline, "--key", f"{other}.pub", image)
        (lab.folder / "predicate.json").write_text('{"built": "here"}')
        predicate = ("--type", "custom", "--predicate", str(lab.folder / "predicate.json"))
        self.run("attest", *quiet, *self.plain, "--key", f"{ours}.key", *predicate, image)
        self.run("verify-attestation", *offline, "--type", "custom", "--key", f"{ours}.pub", image)
        status, body = lab.ask("GET", f"{name}/referrers/{digest}")
        assert status == 200
        assert body.count(b'"artifactType"') == 2, body
