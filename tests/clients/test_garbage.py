"""Deleting and collecting beside real clients: what they were told is there can be pulled."""

import base64
import json
import secrets
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from .images import KIB, MIB, OciLayout, blobs, layer, noise
from .processes import Client
from .target import WRITER, Registry

SECONDS = 30  # of pushing beside collections


def ask(registry: Registry, method: str, path: str) -> tuple[int, dict[str, Any]]:
    """Call the registry without a client; the status and what the answer says."""
    request = urllib.request.Request(f"http://{registry.host}{path}", method=method)
    request.add_header("Authorization", "Basic " + base64.b64encode(WRITER.credentials.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            content = answer.read()
            return answer.status, json.loads(content) if content else {}
    except urllib.error.HTTPError as error:
        return error.code, {}


def push(skopeo: Client, source: str, image: str) -> None:
    """Copy from a layout to the registry, every byte as it is."""
    skopeo.succeeds("copy", "--preserve-digests", "--dest-tls-verify=false", source, f"docker://{image}")


def test_deleted_and_collected(skopeo: Client, registry: Registry, folder: Path) -> None:
    """Skopeo deletes by digest; after a collection nothing of the image can be pulled, and the other one can."""
    name = f"garbage/{secrets.token_hex(4)}"
    layouts = {}
    for tag in ("kept", "gone"):
        layouts[tag] = OciLayout(folder / tag)
        pushed = layouts[tag].add_image([layer(f"{name}{tag}", KIB), noise(f"{name}{tag}", 9 * MIB)])
        push(skopeo, layouts[tag].tag("1", pushed), f"{registry.host}/{name}:{tag}")
    image = f"docker://{registry.host}/{name}"
    digest = skopeo.succeeds("inspect", "--tls-verify=false", "--format", "{{.Digest}}", f"{image}:gone").stdout.strip()
    skopeo.succeeds("delete", "--tls-verify=false", f"{image}@{digest}")
    status, shown = ask(registry, "POST", f"/v2/{name}/gc?grace=0&dry_run=true")
    assert (status, len(shown["garbage"]["blobs"])) == (200, 3)
    status, done = ask(registry, "POST", f"/v2/{name}/gc?grace=0")
    assert (status, done["success"], done["blobs"]) == (200, True, 3)
    for found in shown["garbage"]["blobs"]:
        assert ask(registry, "GET", f"/v2/{name}/blobs/{found['digest']}")[0] == 404
    assert ask(registry, "GET", f"/v2/{name}/manifests/{digest}")[0] == 404
    pulled = folder / "pulled"
    skopeo.succeeds("copy", "--src-tls-verify=false", f"{image}:kept", f"oci:{pulled}:1")
    assert all(file == digest[7:] for file, digest in blobs(pulled).items())
    assert ask(registry, "GET", f"/v2/{name}/gc?mode=verify") == (
        200,
        {"manifests": 2, "blobs": 3, "problems": [], "unread": 0},
    )


def test_pushing_while_garbage_is_collected(skopeo: Client, registry: Registry, folder: Path) -> None:
    """Images are pushed, moved and deleted while both kinds of collection run all the time: what is tagged pulls."""
    name = f"garbage/{secrets.token_hex(4)}"
    collections: list[int] = []
    refused: list[int] = []
    is_over = threading.Event()

    def collect() -> None:
        while not is_over.is_set():
            for mode in ("unreferenced", "untagged"):
                status, _ = ask(registry, "POST", f"/v2/{name}/gc?mode={mode}&grace=5")
                (collections if status == 200 else refused).append(status)
            time.sleep(0.1)  # or nothing else would run on two cores

    thread = threading.Thread(target=collect)
    layout = OciLayout(folder / "pushed")
    base = noise(name, 9 * MIB)
    pushed = 0
    began = time.monotonic()
    # Something to begin with: an empty repository has nothing to collect.
    push(skopeo, layout.tag("1", layout.add_image([base])), f"{registry.host}/{name}:first")
    thread.start()
    try:
        while time.monotonic() - began < SECONDS:
            image = layout.add_image([base, layer(f"{name}{pushed}", KIB)])
            push(skopeo, layout.tag("1", image), f"{registry.host}/{name}:tag-{pushed % 4}")
            if pushed % 3 == 2:
                assert ask(registry, "DELETE", f"/v2/{name}/manifests/{image['digest']}")[0] == 202
                push(skopeo, layout.tag("1", image), f"{registry.host}/{name}:tag-{pushed % 4}")
            pushed += 1
    finally:
        is_over.set()
        thread.join()
    assert pushed > 4
    assert len(collections) > 10
    assert set(refused) <= {409}
    for tag in ("first", *(f"tag-{number}" for number in range(min(4, pushed)))):
        pulled = folder / f"pulled-{tag}"
        source = f"docker://{registry.host}/{name}:{tag}"
        skopeo.succeeds("copy", "--src-tls-verify=false", source, f"oci:{pulled}:1")
        assert all(file == digest[7:] for file, digest in blobs(pulled).items())
