"""A download that is cut in the middle goes on where it was: docker and containerd ask for the rest with a Range."""

from collections.abc import Callable
from pathlib import Path

from .conftest import docker_client, run_dockerd
from .cutting import cutting_proxy
from .daemons import Containerd
from .images import MIB, OciLayout, docker_archive, layer
from .processes import Client
from .target import WRITER, Registry, login_command
from .tools import Lab, Tool


def test_docker_resumes(docker: Client, lab: Lab, folder: Path) -> None:
    """A daemon that may try twice has the image after one cut of its layer."""
    archive = folder / "image.tar"
    archive.write_bytes(docker_archive(lab.image(), [layer(lab.name, 9 * MIB)]))
    docker.succeeds("load", "--input", str(archive))
    docker.succeeds("push", lab.image())
    with cutting_proxy(lab.host) as (host, cuts), run_dockerd(folder / "dockerd", attempts=2) as address:
        client = docker_client(folder / "client", address)
        client.succeeds(*login_command(client, Registry(host), WRITER), stdin=WRITER.password)
        client.succeeds("pull", f"{host}/{lab.name}:1")
    assert len(cuts.cut) == 1
    assert [status for _, status in cuts.resumed] == [206], cuts.resumed


def test_containerd_resumes(skopeo: Client, lab: Lab, make_tool: Callable[[type[Tool], Path], Tool]) -> None:
    """It goes on by itself."""
    layout = OciLayout(lab.folder / "layout")
    layout.tag("1", layout.add_image([layer(lab.name, 9 * MIB)]))
    skopeo.succeeds(
        "copy", "--preserve-digests", "--dest-tls-verify=false", f"oci:{layout.folder}:1", f"docker://{lab.image()}"
    )
    tool = make_tool(Containerd, lab.folder)
    with cutting_proxy(lab.host) as (host, cuts):
        tool.run("content", "fetch", "--plain-http", "--user", WRITER.credentials, f"{host}/{lab.name}:1")
    assert len(cuts.cut) == 1
    assert [status for _, status in cuts.resumed] == [206], cuts.resumed
