"""Clients for what is no image: charts, signatures, templates, files."""

import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .images import MIB, noise
from .target import ROOT, WRITER
from .tools import NO_REFERRERS, Lab, Tool

NPM = ROOT / "build/npm/node_modules"

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
        "push_and_pull": "cosign signs images that other clients pushed",
        "index": "cosign signs images that other clients pushed",
        "tags": "cosign has no command that lists the tags of a registry (`cosign --help`)",
        "delete": "`cosign clean` deletes only signatures",
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


class Notation(Tool):
    """Signatures of the Notary Project, by its library (`notation/main.go`)."""

    title, source = "notation", "github.com/notaryproject/notation-go"
    limits: ClassVar[Mapping[str, str]] = {
        "login": "the library gets credentials from its caller",
        "push_and_pull": "notation signs images that other clients pushed",
        "index": "notation signs images that other clients pushed",
        "copy": "notation has no command that copies",
        "tags": "notation has no command that lists the tags of a registry",
        "delete": "notation has no command that deletes",
        "chunks": "notation pushes with oras-go, which sends a blob as one PUT",
    }

    def prepare(self, lab: Lab) -> None:
        """Take the credentials."""
        self.client = self.client.inside(lab.folder, {"NAME": WRITER.name, "PASSWORD": WRITER.password})

    def referrers(self, lab: Lab) -> None:
        """Two signatures, found through the referrers; of another key there is none."""
        name = f"{lab.name}/signed"
        image = f"{lab.host}/{name}@{lab.push_base(name)}"
        keys = [self.make_key(lab.folder) for _ in range(3)]
        for key in keys[:2]:
            self.sign(key, image)
        for key in keys[:2]:
            self.run(*self.verification(key, image))
        self.client.fails(*self.verification(keys[2], image))

    def sign(self, key: Path, image: str) -> None:
        """Sign an image."""
        self.run("sign", str(key), str(key.with_suffix(".pem")), image)

    @staticmethod
    def verification(key: Path, image: str) -> list[str]:
        """The command that verifies it."""
        return ["verify", str(key.with_suffix(".pem")), image]

    @staticmethod
    def make_key(folder: Path) -> Path:
        """Make a key, with a certificate beside it that it signs itself: as the Notary Project requires them."""
        key = ec.generate_private_key(ec.SECP256R1())
        country = x509.NameAttribute(NameOID.COUNTRY_NAME, "US")
        more = (NameOID.STATE_OR_PROVINCE_NAME, NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)
        name = x509.Name([country, *(x509.NameAttribute(one, secrets.token_hex(4)) for one in more)])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(True, *[False] * 8), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .sign(key, hashes.SHA256())
        )
        path = folder / f"{secrets.token_hex(4)}.key"
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        path.with_suffix(".pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        return path


class Flux(Tool):
    """Manifests for Kubernetes."""

    title, source = "flux", "github.com/fluxcd/flux2/v2"
    is_newest = True
    limits: ClassVar[Mapping[str, str]] = {
        "login": "flux reads docker's configuration, which `docker login` writes",
        "index": "flux pushes one artifact",
        "copy": "flux has no command that copies (`flux --help`)",
        "referrers": NO_REFERRERS,
        "delete": "flux has no command that deletes in a registry (`flux --help`)",
        "chunks": "flux pushes with go-containerregistry, which sends a layer as one PATCH",
    }

    def prepare(self, lab: Lab) -> None:
        """Write what `docker login` writes."""
        lab.write_docker_credentials(self.client)

    def _push_folder(self, lab: Lab, tag: str) -> str:
        (lab.folder / "made").mkdir(exist_ok=True)
        content = f"kind: {tag}\n"
        (lab.folder / "made/map.yaml").write_text(content)
        about = ("--path", str(lab.folder / "made"), "--source", "here", "--revision", f"{tag}@sha256:{'0' * 64}")
        self.run("push", "artifact", f"oci://{lab.image(tag)}", *about, "--insecure-registry")
        assert lab.pushed(tag)
        return content

    def push_and_pull(self, lab: Lab) -> None:
        """A folder comes back."""
        content = self._push_folder(lab, "1")
        pulled = lab.folder / "pulled"
        pulled.mkdir()
        self.run("pull", "artifact", f"oci://{lab.image()}", "--output", str(pulled), "--insecure-registry")
        assert (pulled / "map.yaml").read_text() == content

    def tags(self, lab: Lab) -> None:
        """The artifacts that were pushed."""
        for tag in ("1", "2"):
            self._push_folder(lab, tag)
        shown = self.run("list", "artifacts", f"oci://{lab.host}/{lab.name}", "--insecure-registry")
        assert sorted(line.split()[0] for line in shown.splitlines()[1:]) == [lab.image("1"), lab.image("2")]


class Devcontainers(Tool):
    """Templates and features of development containers."""

    title, source = "devcontainers", "@devcontainers/cli"
    limits: ClassVar[Mapping[str, str]] = {
        "login": "devcontainer reads credentials from its environment, or docker's configuration",
        "index": "a template has no platforms",
        "copy": "devcontainer has no command that copies (`devcontainer --help`)",
        "referrers": NO_REFERRERS,
        "delete": "devcontainer has no command that deletes (`devcontainer --help`)",
        "chunks": "devcontainer sends a blob as one PUT (seen on the wire)",
    }

    def prepare(self, lab: Lab) -> None:
        """Take the credentials."""
        credentials = {"DEVCONTAINERS_OCI_AUTH": f"{lab.host}|{WRITER.name}|{WRITER.password}"}
        self.client = self.client.inside(lab.folder, credentials)

    def run(self, *arguments: str, stdin: str = "") -> str:
        """A script of Node."""
        return super().run(str(NPM / "@devcontainers/cli/devcontainer.js"), *arguments, stdin=stdin)

    def _publish(self, lab: Lab, version: str) -> None:
        source = lab.folder / "templates"
        (source / "plain/.devcontainer").mkdir(parents=True, exist_ok=True)
        template = {"id": "plain", "name": "plain", "version": version}
        (source / "plain/devcontainer-template.json").write_text(json.dumps(template))
        (source / "plain/.devcontainer/devcontainer.json").write_text(json.dumps({"image": lab.name}))
        self.run("templates", "publish", "--registry", lab.host, "--namespace", lab.name, str(source))

    def push_and_pull(self, lab: Lab) -> None:
        """A template is published, and applied to a folder."""
        self._publish(lab, "1.2.3")
        assert lab.pushed("1.2.3", "/plain") == lab.pushed("1", "/plain")
        folder = lab.folder / "workspace"
        folder.mkdir()
        template = f"{lab.host}/{lab.name}/plain:1.2"
        self.run("templates", "apply", "--template-id", template, "--workspace-folder", str(folder))
        assert json.loads((folder / ".devcontainer/devcontainer.json").read_text()) == {"image": lab.name}

    def tags(self, lab: Lab) -> None:
        """Of a second version: it asks which there are before it publishes."""
        for version in ("1.2.3", "1.3.0"):
            self._publish(lab, version)
        shown = self.run("features", "info", "tags", "--output-format", "json", f"{lab.host}/{lab.name}/plain")
        assert json.loads(shown)["publishedTags"] == ["1", "1.2", "1.2.3", "1.3", "1.3.0", "latest"]


class Dxf(Tool):
    """Blobs with names, from Python."""

    title, source = "dxf", "python-dxf"
    needs_tokens = True
    limits: ClassVar[Mapping[str, str]] = {
        "login": "dxf sends passwords only over HTTPS: in the tests it gets a token",
        "index": "dxf has no command that pushes an index (`dxf --help`)",
        "referrers": NO_REFERRERS,
        "chunks": "dxf sends a blob as one PUT (`dxf/__init__.py`)",
    }

    def prepare(self, lab: Lab) -> None:
        """Get a token."""
        scopes = "&".join(f"scope=repository:{lab.name}{name}:pull,push,delete" for name in ("", "/copy"))
        status, body = lab.ask("GET", f"token?{scopes}")
        assert status == 200, body
        settings = {"DXF_HOST": lab.host, "DXF_INSECURE": "1", "DXF_TOKEN": json.loads(body)["token"]}
        self.client = self.client.inside(lab.folder, settings)

    def _push_file(self, lab: Lab, alias: str) -> str:
        (lab.folder / alias).write_text(noise(f"{lab.name}{alias}", 5 * MIB).hex())
        return self.run("push-blob", lab.name, alias, f"@{alias}").strip()

    def push_and_pull(self, lab: Lab) -> None:
        """A file, by its name and by its digest."""
        digest = self._push_file(lab, "first")
        for name in ("@first", digest):
            assert self.run("pull-blob", lab.name, name) == (lab.folder / "first").read_text()

    def copy(self, lab: Lab) -> None:
        """A blob is mounted."""
        digest = self._push_file(lab, "first")
        with lab.registry.counted() as counts:
            self.run("mount-blob", f"{lab.name}/copy", lab.name, digest, "@second")
        assert lab.ask("HEAD", f"{lab.name}/copy/blobs/{digest}")[0] == 200
        assert counts.get("written", 0) < MIB

    def tags(self, lab: Lab) -> None:
        """The aliases."""
        for alias in ("first", "second"):
            self._push_file(lab, alias)
        assert self.run("list-aliases", lab.name).split() == ["first", "second"]

    def delete(self, lab: Lab) -> None:
        """An alias, then the blob behind it."""
        digest = self._push_file(lab, "first")
        self.run("del-alias", lab.name, "first")
        assert lab.ask("HEAD", f"{lab.name}/manifests/first")[0] == 404
        self.run("del-blob", lab.name, digest)
        assert lab.ask("HEAD", f"{lab.name}/blobs/{digest}")[0] == 404
