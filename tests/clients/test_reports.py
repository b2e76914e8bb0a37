"""What people reported of other registries, with the client itself: caches, signatures, pulls in parts."""

import json
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .artifacts import Cosign, Notation
from .builders import Buildctl
from .conftest import built_client, skopeo_client
from .images import KIB, MIB, OCI_MANIFEST, OciLayout, digest_of, layer, noise, tarball
from .processes import Client
from .target import WRITER, Registry, local_runtime
from .test_fallback import NAME, REVALIDATE, Upstream, behind, push_there
from .tools import ContainersImage, Lab, Tool
from .upstreams import docker_registry

MakeTool = Callable[[type[Tool], Path], Tool]
FILES, FILE = 128, MIB // 4  # files of a layer, and the bytes of each
SIGNATURES = 121  # of one image: more than three pages of forty


# ------------------------------------------------------------------ BuildKit's cache
def test_a_cache_that_is_an_index_of_layers(lab: Lab, make_tool: MakeTool) -> None:
    """`image-manifest=false`, the default of older BuildKits: it comes back after a collection of garbage."""
    buildctl = make_tool(Buildctl, lab.folder)
    assert isinstance(buildctl, Buildctl)
    buildctl.prepare(lab)
    dockerfile = "FROM scratch AS first\nCOPY file /first\nFROM scratch\nCOPY --from=first /first /second\n"
    output = f"name={lab.image()},push=true"
    cache = f"type=registry,ref={lab.image('cache')}"
    buildctl.build(lab, dockerfile, output, "--export-cache", f"{cache},mode=max,image-manifest=false")
    status, body = lab.ask("GET", f"{lab.name}/manifests/cache")
    assert status == 200
    kinds = [entry["mediaType"] for entry in json.loads(body)["manifests"]]
    assert len(kinds) > 1
    assert not any("manifest" in kind for kind in kinds), "an index of blobs alone"
    status, body = lab.ask("POST", f"{lab.name}/gc?grace=0")
    assert (status, json.loads(body)["blobs"]) == (200, 0)
    status, body = lab.ask("GET", f"{lab.name}/gc?mode=verify")
    assert (status, json.loads(body)["problems"]) == (200, [])
    buildctl.run("prune", "--all")
    progress = buildctl.build(lab, dockerfile, output, "--import-cache", cache)
    assert progress.count("CACHED") == 2, progress


# ------------------------------------------------------------------ signatures
class Signer:
    """cosign with a key of its own, and no transparency log."""

    def __init__(self, cosign: Client, folder: Path) -> None:
        """Make the key."""
        self.cosign = cosign
        self.key = str(folder / secrets.token_hex(4))
        cosign.succeeds("generate-key-pair", "--output-key-prefix", self.key)

    def sign(self, image: str, *options: str) -> None:
        """Sign an image."""
        quiet = ("--yes", "--tlog-upload=false", "--use-signing-config=false", "--key", f"{self.key}.key")
        self.cosign.succeeds("sign", *quiet, *options, *Cosign.plain, image)

    def verification(self, image: str, *options: str) -> list[str]:
        """The command that verifies it."""
        offline = ("--insecure-ignore-tlog", "--private-infrastructure", "--key", f"{self.key}.pub")
        return ["verify", *offline, *options, *Cosign.plain, image]


def test_one_signature_behind_many_referrers(lab: Lab, make_tool: MakeTool) -> None:
    """Cosign reads one page, in whatever order it is."""
    cosign = make_tool(Cosign, lab.folder)
    cosign.prepare(lab)
    digest = lab.push_base(lab.name)
    image = f"{lab.host}/{lab.name}@{digest}"
    signer = Signer(cosign.client, lab.folder)
    signer.sign(image)
    status, body = lab.ask("GET", f"{lab.name}/referrers/{digest}")
    [signature] = json.loads(body)["manifests"]
    lab.put_empty_blob()
    others = lab.note(digest, "{}").decode()
    pushed = number = 0
    while pushed < SIGNATURES - 1:
        note = others.replace('"{}"', f'"{number}"').encode()
        reference = digest_of(note)
        number += 1
        # Lists are in the order of digests: these stand before the signature, if that is not among the very first.
        if reference < signature["digest"] or number > 100_000:
            status, answer = lab.ask("PUT", f"{lab.name}/manifests/{reference}", note, **{"Content-Type": OCI_MANIFEST})
            assert status == 201, answer
            pushed += 1
    status, body = lab.ask("GET", f"{lab.name}/referrers/{digest}")
    assert len(json.loads(body)["manifests"]) == SIGNATURES
    cosign.run(*signer.verification(image))
    stranger = Signer(cosign.client, lab.folder)
    cosign.client.fails(*stranger.verification(image))


@pytest.fixture(params=["docker-registry", "ours"])
def upstream(request: pytest.FixtureRequest, folder: Path) -> Iterator[Upstream]:
    """Run another registry: one without a referrers API, and one with it."""
    with ExitStack() as running:
        if request.param == "ours":
            _, registry = running.enter_context(local_runtime(folder / "theirs", BEARER_TOKENS="true"))
            yield Upstream(registry.host, WRITER, running.close)
        else:
            host, _ = running.enter_context(docker_registry("none", folder / "theirs"))
            yield Upstream(host, None, running.close)


def test_signatures_of_another_registry(upstream: Upstream, folder: Path) -> None:
    """Cosign verifies here what it signed there: through the list of referrers, and by the old tag, `.sig`.

    Also when the other registry is gone; and a signature that comes later is seen.
    """
    cosign = built_client("cosign", folder / "home")
    if upstream.user is not None:
        cosign.succeeds("login", upstream.host, "-u", WRITER.name, "--password-stdin", stdin=WRITER.password)
    layout = OciLayout(folder / "image")
    image = layout.add_image([layer(upstream.host, KIB)])
    push_there(skopeo_client(folder / "skopeo-home"), upstream, layout.tag("1", image))
    there = f"{upstream.host}/{NAME}@{image['digest']}"
    first, old, later = (Signer(cosign, folder) for _ in range(3))
    first.sign(there)
    with behind(upstream, folder) as registry:
        cosign.succeeds("login", registry.host, "-u", WRITER.name, "--password-stdin", stdin=WRITER.password)
        here = f"{registry.host}/hub/{NAME}@{image['digest']}"
        cosign.succeeds(*first.verification(here))
        cosign.fails(*later.verification(here))
        later.sign(there)
        time.sleep(REVALIDATE)  # that is what is tested: so long a list counts as fresh
        cosign.succeeds(*later.verification(here))
        old.sign(there, "--new-bundle-format=false")
        cosign.succeeds(*old.verification(here, "--new-bundle-format=false"))
        upstream.stop()
        time.sleep(REVALIDATE)
        for signer in (first, later):
            cosign.succeeds(*signer.verification(here))
        cosign.succeeds(*old.verification(here, "--new-bundle-format=false"))


def test_signatures_of_notation(upstream: Upstream, folder: Path, make_tool: MakeTool) -> None:
    """The Notary Project's, the same way: oras-go keeps a list in a tag where there is no referrers API."""
    layout = OciLayout(folder / "image")
    image = layout.add_image([layer(upstream.host, KIB)])
    push_there(skopeo_client(folder / "skopeo-home"), upstream, layout.tag("1", image))
    notation = make_tool(Notation, folder)
    assert isinstance(notation, Notation)
    notation.prepare(Lab(Registry(upstream.host), folder, NAME))
    first, other = (notation.make_key(folder) for _ in range(2))
    notation.sign(first, f"{upstream.host}/{NAME}@{image['digest']}")
    with behind(upstream, folder) as registry:
        here = f"{registry.host}/hub/{NAME}@{image['digest']}"
        notation.run(*notation.verification(first, here))
        notation.client.fails(*notation.verification(other, here))
        upstream.stop()
        time.sleep(REVALIDATE)  # that is what is tested: so long a list counts as fresh
        notation.run(*notation.verification(first, here))


# ------------------------------------------------------------------ pulls in parts
@pytest.fixture
def store(folder: Path) -> Iterator[Path]:
    """Return a folder for an overlay store, which needs a file system that is none itself."""
    path = folder / "store"
    path.mkdir()
    subprocess.run(["/usr/bin/mount", "-t", "tmpfs", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["/usr/bin/umount", "--lazy", str(path)], check=True)


def test_a_layer_of_which_a_tenth_changed(lab: Lab, store: Path, make_tool: MakeTool) -> None:
    """containers/image pulls of a layer in zstd:chunked what it does not have: several ranges in one request."""
    tool = make_tool(ContainersImage, lab.folder)
    tool.prepare(lab)
    files = {f"{number:03}": noise(f"{lab.name}{number}", FILE) for number in range(FILES)}
    first, second = (OciLayout(lab.folder / tag) for tag in ("1", "2"))
    tool.run("copy", "--zstd-chunked", first.tag("1", first.add_image([tarball(files)])), f"docker://{lab.image('1')}")
    files |= {f"{number:03}": noise(f"new {lab.name}{number}", FILE) for number in range(0, FILES, 10)}
    tool.run(
        "copy", "--zstd-chunked", second.tag("1", second.add_image([tarball(files)])), f"docker://{lab.image('2')}"
    )
    read = []
    for tag in ("1", "2"):
        with lab.registry.counted() as counts:
            tool.run("copy", "--storage", str(store), f"docker://{lab.image(tag)}", lab.image(tag))
        read.append(counts.get("read"))
    whole, part = read
    if whole is not None and part is not None:  # the registry counts
        assert part < FILES * FILE / 5 < FILES * FILE < whole, read
