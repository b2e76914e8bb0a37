"""Every client, and what it does with the registry: one method for each action of docs/clients.md.

A method that a client lacks stands in its `limits`, with the reason. What is sent is checked without the client: over
HTTP, by digest.
"""

import base64
import hashlib
import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from .images import KIB, MIB, OCI_MANIFEST, OciLayout, digest_of, docker_archive, entry_digest, layer
from .processes import Client
from .target import ROOT, STRANGER, WRITER, Registry

GO_BIN = ROOT / "build/go/bin"
CHUNK = MIB  # bytes of a chunk, where a client takes a size


@dataclass(frozen=True, slots=True)
class Lab:
    """Where a client works: a registry, a folder of its own, a name in the registry that nobody has used."""

    registry: Registry
    folder: Path
    name: str

    @property
    def host(self) -> str:
        """The registry, as clients name it."""
        return self.registry.host

    def image(self, tag: str = "1", name: str = "") -> str:
        """An image's full name."""
        return f"{self.host}/{self.name}{name}:{tag}"

    def layout(self) -> tuple[Path, str]:
        """A new OCI layout with one image, tagged 1, one of its layers large; and the image's digest."""
        layout = OciLayout(self.folder / secrets.token_hex(4))
        image = layout.add_image([layer(f"{self.name}{size}", size) for size in (KIB, 9 * MIB)])
        layout.tag("1", image)
        return layout.folder, str(image["digest"])

    def index_layout(self) -> tuple[Path, str]:
        """A new OCI layout with an index of two architectures, tagged 1; and the index's digest."""
        layout = OciLayout(self.folder / secrets.token_hex(4))
        images = {name: layout.add_image([layer(f"{self.name}{name}", KIB)], name) for name in ("amd64", "arm64")}
        index = layout.add_index(images)
        layout.tag("1", index)
        return layout.folder, str(index["digest"])

    def archive(self, image: str) -> Path:
        """A file that docker, podman and buildah load, with an image of this name."""
        path = self.folder / f"{secrets.token_hex(4)}.tar"
        path.write_bytes(docker_archive(image, [layer(image, KIB), layer(image, 9 * MIB)]))
        return path

    def ask(self, method: str, path: str, content: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """Ask the registry without the client; status and body."""
        credentials = base64.b64encode(WRITER.credentials.encode()).decode()
        all_headers = {"Authorization": f"Basic {credentials}", **headers}
        url = f"http://{self.host}/v2/{path}"
        request = urllib.request.Request(url, content, method=method, headers=all_headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def push_base(self, name: str) -> str:
        """Push an index of two architectures, each with a layer, without a client; its digest."""
        layout = OciLayout(self.folder / secrets.token_hex(4))
        images = {each: layout.add_image([layer(f"{name}{each}", KIB)], each) for each in ("amd64", "arm64")}
        index = layout.add_index(images)
        for path in (layout.folder / "blobs" / "sha256").iterdir():
            content, digest = path.read_bytes(), f"sha256:{path.name}"
            self._put(f"{name}/blobs/uploads/?digest={digest}", content, method="POST")
        for descriptor in (*images.values(), index):
            content = (layout.folder / "blobs" / "sha256" / str(descriptor["digest"])[7:]).read_bytes()
            reference = "1" if descriptor is index else descriptor["digest"]
            self._put(f"{name}/manifests/{reference}", content, str(descriptor["mediaType"]))
        return str(index["digest"])

    def _put(self, path: str, content: bytes, media_type: str = "", method: str = "PUT") -> None:
        status, body = self.ask(method, path, content, **{"Content-Type": media_type or "application/octet-stream"})
        assert status == 201, body

    def write_docker_credentials(self, client: Client) -> None:
        """Log in as docker would, for clients that leave it to docker."""
        folder = Path(client.environment["DOCKER_CONFIG"])
        folder.mkdir(exist_ok=True)
        credentials = base64.b64encode(WRITER.credentials.encode()).decode()
        (folder / "config.json").write_text(json.dumps({"auths": {self.host: {"auth": credentials}}}))

    def check_manifest(self, digest: str, reference: str = "1", name: str = "") -> dict[str, Any]:
        """The registry has exactly this manifest there, and all of its blobs and children."""
        status, body = self.ask("GET", f"{self.name}{name}/manifests/{reference}")
        assert (status, f"sha256:{hashlib.sha256(body).hexdigest()}") == (200, digest), body
        document: dict[str, Any] = json.loads(body)
        for child in document.get("manifests", []):
            self.check_manifest(child["digest"], child["digest"], name)
        for blob in [document["config"], *document["layers"]] if "layers" in document else []:
            status, body = self.ask("GET", f"{self.name}{name}/blobs/{blob['digest']}")
            assert (status, f"sha256:{hashlib.sha256(body).hexdigest()}") == (200, blob["digest"])
        return document

    def pushed(self, reference: str = "1", name: str = "") -> str:
        """The digest of what was pushed, after a look at everything below it."""
        status, body = self.ask("GET", f"{self.name}{name}/manifests/{reference}")
        assert status == 200, body
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        self.check_manifest(digest, reference, name)
        return digest

    def attach(self, digest: str, text: str = "a note") -> str:
        """Push a manifest that names this one, without a client; its digest."""
        content = self.note(digest, text)
        made = digest_of(content)
        self.put_empty_blob()
        self._put(f"{self.name}/manifests/{made}", content, OCI_MANIFEST)
        return made

    def put_empty_blob(self) -> None:
        """Push what notes refer to."""
        self._put(f"{self.name}/blobs/uploads/?digest={digest_of(b'{}')}", b"{}", method="POST")

    def note(self, digest: str, text: str) -> bytes:
        """A manifest that names this one."""
        status, subject = self.ask("GET", f"{self.name}/manifests/{digest}")
        assert status == 200
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": "application/vnd.example.note",
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(b"{}"), "size": 2},
            "layers": [],
            "subject": {"mediaType": json.loads(subject)["mediaType"], "digest": digest, "size": len(subject)},
            "annotations": {"note": text},
        }
        return json.dumps(document).encode()

    def check_deleted(self, digest: str) -> None:
        """Neither the digest nor the tag is there."""
        assert [self.ask("HEAD", f"{self.name}/manifests/{one}")[0] for one in (digest, "1")] == [404, 404]


class Tool:
    """A client. `title` and `source` are for the page; `limits` names the actions it does not have."""

    title: ClassVar[str]
    source: ClassVar[str]
    is_newest: ClassVar[bool] = False  # takes more than a minute to build: with NEWEST=1 alone
    needs_tokens: ClassVar[bool] = False  # works where the registry issues tokens
    limits: ClassVar[Mapping[str, str]] = {}

    def __init__(self, client: Client) -> None:
        """Take the program with its environment."""
        self.client = client

    def run(self, *arguments: str, stdin: str = "") -> str:
        """Run a command that succeeds; its output."""
        return self.client.succeeds(*arguments, stdin=stdin).stdout

    def prepare(self, lab: Lab) -> None:
        """Log in, for the actions that need it."""
        self._log_in(lab, WRITER.password)

    def _log_in(self, lab: Lab, password: str) -> None:
        raise NotImplementedError

    def login(self, lab: Lab) -> None:
        """Right credentials are taken, wrong ones are not."""
        self._log_in(lab, WRITER.password)
        try:
            self._log_in(lab, STRANGER.password)
        except AssertionError as error:
            assert "exit code" in str(error)  # noqa: PT017 - the client's own failure is what is asked for
        else:
            raise AssertionError("a wrong password was taken")

    def push_and_pull(self, lab: Lab) -> None:
        """An image arrives whole, and comes back as it was."""
        source, digest = lab.layout()
        self._push(lab, source, lab.image())
        lab.check_manifest(digest)
        assert self._pull(lab, lab.image()) == digest

    def index(self, lab: Lab) -> None:
        """An index of two architectures arrives whole, and comes back as it was."""
        source, digest = lab.index_layout()
        self._push(lab, source, lab.image())
        lab.check_manifest(digest)
        assert self._pull(lab, lab.image()) == digest

    def copy(self, lab: Lab) -> None:
        """An image goes to another repository without its large layer being uploaded again."""
        source, digest = lab.layout()
        self._push(lab, source, lab.image())
        with lab.registry.counted() as counts:
            self._copy(lab, lab.image(), lab.image("2", "/copy"))
        lab.check_manifest(digest, "2", "/copy")
        assert counts.get("written", 0) < MIB, "mounted, not uploaded"

    def _push(self, lab: Lab, source: Path, image: str) -> None:
        raise NotImplementedError

    def _pull(self, lab: Lab, image: str) -> str:
        raise NotImplementedError

    def _copy(self, lab: Lab, source: str, target: str) -> None:
        raise NotImplementedError


ACTIONS = {
    "login": "log in",
    "push_and_pull": "push, pull, compare",
    "index": "multi-arch index",
    "copy": "copy between repositories",
    "tags": "list tags",
    "referrers": "attach, list referrers",
    "delete": "delete",
    "chunks": "push in chunks",
}


NO_REFERRERS = "no command for referrers"
PATCH_AT_ONCE = "containers/image sends a layer as one PATCH (`docker_image_dest.go`)"


class Skopeo(Tool):
    """Copies images as they are."""

    title, source = "skopeo", "Debian 12"
    limits: ClassVar[Mapping[str, str]] = {
        "referrers": "skopeo 1.9 has no command for referrers (`skopeo --help`)",
        "chunks": PATCH_AT_ONCE,
    }

    def _log_in(self, lab: Lab, password: str) -> None:
        self.run("login", "--tls-verify=false", "--username", WRITER.name, "--password-stdin", lab.host, stdin=password)

    def _push(self, lab: Lab, source: Path, image: str) -> None:
        options = ("--all", "--preserve-digests", "--dest-tls-verify=false")
        self.run("copy", *options, f"oci:{source}:1", f"docker://{image}")

    def _pull(self, lab: Lab, image: str) -> str:
        target = lab.folder / "pulled"
        options = ("--all", "--preserve-digests", "--src-tls-verify=false")
        self.run("copy", *options, f"docker://{image}", f"oci:{target}:1")
        return entry_digest(target)

    def _copy(self, lab: Lab, source: str, target: str) -> None:
        options = ("--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false")
        self.run("copy", *options, f"docker://{source}", f"docker://{target}")

    def tags(self, lab: Lab) -> None:
        """The tags that were pushed."""
        source, _ = lab.layout()
        for tag in ("1", "2"):
            self._push(lab, source, lab.image(tag))
        assert self._tags(lab) == ["1", "2"]

    def _tags(self, lab: Lab) -> list[str]:
        found = json.loads(self.run("list-tags", "--tls-verify=false", f"docker://{lab.host}/{lab.name}"))
        return list(found["Tags"])

    def delete(self, lab: Lab) -> None:
        """By tag: skopeo deletes the digest behind it."""
        source, digest = lab.layout()
        self._push(lab, source, lab.image())
        self._delete(lab.image())
        lab.check_deleted(digest)

    def _delete(self, image: str) -> None:
        self.run("delete", "--tls-verify=false", f"docker://{image}")


class ContainersImage(Skopeo):
    """The newest containers/image, as `containers-image/main.go` calls it."""

    title, source = "containers/image (podman 5, skopeo, CRI-O)", "go.podman.io/image/v5"
    limits: ClassVar[Mapping[str, str]] = {
        "login": "a library, which reads the credentials that `podman login` writes",
        "referrers": NO_REFERRERS,
        "chunks": PATCH_AT_ONCE,
    }

    def prepare(self, lab: Lab) -> None:
        """Write what `podman login` writes."""
        lab.write_docker_credentials(self.client)

    def _push(self, lab: Lab, source: Path, image: str) -> None:
        self.run("copy", "--all", f"oci:{source}:1", f"docker://{image}")

    def _pull(self, lab: Lab, image: str) -> str:
        target = lab.folder / "pulled"
        self.run("copy", "--all", f"docker://{image}", f"oci:{target}:1")
        return entry_digest(target)

    def _copy(self, lab: Lab, source: str, target: str) -> None:
        self.run("copy", "--all", f"docker://{source}", f"docker://{target}")

    def _tags(self, lab: Lab) -> list[str]:
        return list(json.loads(self.run("tags", f"docker://{lab.host}/{lab.name}")))

    def _delete(self, image: str) -> None:
        self.run("delete", f"docker://{image}")


class Crane(Tool):
    """Of go-containerregistry."""

    title, source = "crane", "github.com/google/go-containerregistry"
    limits: ClassVar[Mapping[str, str]] = {
        "referrers": "crane has no command that lists referrers (`crane --help`)",
        "chunks": "crane sends a layer as one PATCH (`pkg/v1/remote/write.go`)",
    }

    def _log_in(self, lab: Lab, password: str) -> None:
        # `auth login` only writes the credentials down: asking shows whether they are right.
        self.run("auth", "login", lab.host, "--username", WRITER.name, "--password-stdin", stdin=password)
        self.run("catalog", "--insecure", lab.host)

    def _push(self, lab: Lab, source: Path, image: str) -> None:
        self.run("push", "--insecure", str(source), image)

    def _pull(self, lab: Lab, image: str) -> str:
        target = lab.folder / "pulled"
        self.run("pull", "--insecure", "--format=oci", image, str(target))
        return entry_digest(target)

    def _copy(self, lab: Lab, source: str, target: str) -> None:
        self.run("copy", "--insecure", source, target)

    def tags(self, lab: Lab) -> None:
        """The tags that were pushed."""
        source, _ = lab.layout()
        for tag in ("1", "2"):
            self._push(lab, source, lab.image(tag))
        assert self.run("ls", "--insecure", f"{lab.host}/{lab.name}").split() == ["1", "2"]

    def delete(self, lab: Lab) -> None:
        """By digest, its tag with it."""
        source, digest = lab.layout()
        self._push(lab, source, lab.image())
        self.run("delete", "--insecure", f"{lab.host}/{lab.name}@{digest}")
        lab.check_deleted(digest)


class Regctl(Tool):
    """Of regclient: the one that pushes in chunks."""

    title, source = "regctl", "github.com/regclient/regclient"

    def _log_in(self, lab: Lab, password: str) -> None:
        self.run("registry", "set", "--tls", "disabled", "--skip-check", lab.host)
        self.run("registry", "login", "--user", WRITER.name, "--pass-stdin", lab.host, stdin=password)

    def _push(self, lab: Lab, source: Path, image: str) -> None:
        self.run("image", "copy", f"ocidir://{source}:1", image)

    def _pull(self, lab: Lab, image: str) -> str:
        target = lab.folder / "pulled"
        self.run("image", "copy", image, f"ocidir://{target}:1")
        return entry_digest(target)

    def _copy(self, lab: Lab, source: str, target: str) -> None:
        self.run("image", "copy", source, target)

    def tags(self, lab: Lab) -> None:
        """The tags that were pushed, a page of one at a time, too."""
        source, _ = lab.layout()
        for tag in ("1", "2"):
            self._push(lab, source, lab.image(tag))
        assert self.run("tag", "ls", f"{lab.host}/{lab.name}").split() == ["1", "2"]
        assert self.run("tag", "ls", "--limit", "1", f"{lab.host}/{lab.name}").split() == ["1"]

    def referrers(self, lab: Lab) -> None:
        """An artifact is attached, listed by its type, read, and goes along with a copy."""
        source, _ = lab.layout()
        self._push(lab, source, lab.image())
        file = lab.folder / "note.txt"
        file.write_text("a note")
        kind = "application/vnd.example.note"
        put = ("--artifact-type", kind, "--file", str(file), "--file-media-type", "text/plain")
        self.run("artifact", "put", *put, "--subject", lab.image())
        self.run("image", "copy", "--referrers", lab.image(), lab.image("1", "/copy"))
        for image in (lab.image(), lab.image("1", "/copy")):
            got = self.run("artifact", "get", "--subject", image, "--filter-artifact-type", kind)
            assert got == "a note"

    def delete(self, lab: Lab) -> None:
        """A tag alone; then the digest behind another one."""
        source, digest = lab.layout()
        for tag in ("1", "2"):
            self._push(lab, source, lab.image(tag))
        self.run("tag", "rm", lab.image("2"))
        lab.check_manifest(digest)
        self.run("image", "delete", "--force-tag-dereference", lab.image())
        lab.check_deleted(digest)

    def chunks(self, lab: Lab) -> None:
        """A layer in several PATCHes."""
        self.run("registry", "set", "--blob-chunk", str(CHUNK), "--blob-max", str(CHUNK), lab.host)
        source, digest = lab.layout()
        with lab.registry.requests() as requests:
            self._push(lab, source, lab.image())
        lab.check_manifest(digest)
        # Of a layer of 9 MiB: regctl takes the registry's own minimum, 8 MiB, where it is told less.
        assert requests.get("PATCH /v2/<name>/blobs/uploads/<id>", 2) >= 2, requests


class Oras(Tool):
    """For artifacts, and images as well."""

    title, source = "oras", "oras.land/oras"
    limits: ClassVar[Mapping[str, str]] = {
        "chunks": "oras-go sends a blob as one PUT (`registry/remote/repository.go`)"
    }

    def _log_in(self, lab: Lab, password: str) -> None:
        options = ("--plain-http", "--username", WRITER.name, "--password-stdin")
        self.run("login", *options, lab.host, stdin=password)

    def _push(self, lab: Lab, source: Path, image: str) -> None:
        self.run("cp", "--from-oci-layout", f"{source}:1", "--to-plain-http", image)

    def _pull(self, lab: Lab, image: str) -> str:
        target = lab.folder / "pulled"
        self.run("cp", "--from-plain-http", image, "--to-oci-layout", f"{target}:1")
        return entry_digest(target)

    def _copy(self, lab: Lab, source: str, target: str) -> None:
        self.run("cp", "--from-plain-http", source, "--to-plain-http", target)

    def tags(self, lab: Lab) -> None:
        """The tags that were pushed."""
        source, _ = lab.layout()
        for tag in ("1", "2"):
            self._push(lab, source, lab.image(tag))
        assert self.run("repo", "tags", "--plain-http", f"{lab.host}/{lab.name}").split() == ["1", "2"]

    def referrers(self, lab: Lab) -> None:
        """An artifact is attached, and found by its type and not by another one."""
        source, _ = lab.layout()
        self._push(lab, source, lab.image())
        (lab.folder / "note.txt").write_text("a note")
        file = f"{lab.folder / 'note.txt'}:text/plain"
        kind = "application/vnd.example.note"
        self.run("attach", "--plain-http", "--disable-path-validation", "--artifact-type", kind, lab.image(), file)
        for asked, count in ((kind, 1), ("application/vnd.example.other", 0)):
            options = ("--plain-http", "--format", "json", "--artifact-type", asked)
            found = json.loads(self.run("discover", *options, lab.image()))
            assert len(found.get("referrers") or []) == count

    def delete(self, lab: Lab) -> None:
        """By digest, its tag with it."""
        source, digest = lab.layout()
        self._push(lab, source, lab.image())
        self.run("manifest", "delete", "--plain-http", "--force", f"{lab.host}/{lab.name}@{digest}")
        lab.check_deleted(digest)
