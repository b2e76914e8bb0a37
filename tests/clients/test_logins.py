"""docker, skopeo and podman with each kind of credential, where the registry asks for Basic and where for Bearer."""

import json
import re
import secrets
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from .images import KIB, OciLayout, docker_archive, layer
from .issuer import Issuer
from .processes import Client
from .target import PERSON, WRITER, Registry, User, login_command

PLAIN = "--tls-verify=false"


@dataclass(frozen=True, slots=True)
class Tool:
    """A client, and how it moves an image of two layers; each has a folder of its own."""

    client: Client
    folder: Path

    @property
    def name(self) -> str:
        """Which client it is."""
        return self.client.program.name

    def log_in(self, registry: Registry, user: User) -> None:
        """Log in and keep the credentials."""
        self.client.succeeds(*login_command(self.client, registry, user), stdin=user.password)

    def make(self, image: str) -> str:
        """Make an image; what identifies it."""
        layers = [layer(image, KIB), layer(image, 2 * KIB)]
        if self.name == "skopeo":
            layout = OciLayout(self._layout("made", image))
            descriptor = layout.add_image(layers)
            layout.tag("1", descriptor)
            return str(descriptor["digest"])
        archive = self.folder / "image.tar"
        archive.write_bytes(docker_archive(image, layers))
        self.client.succeeds("load", "--input", str(archive))
        return self._image_id(image)

    def push_command(self, image: str) -> list[str]:
        """The arguments that push what was made."""
        match self.name:
            case "docker":
                return ["push", image]
            case "podman":
                return ["push", PLAIN, image]
        return [
            "copy",
            "--preserve-digests",
            "--dest-tls-verify=false",
            f"oci:{self._layout('made', image)}:1",
            f"docker://{image}",
        ]

    def pull_command(self, image: str) -> list[str]:
        """The arguments that pull."""
        match self.name:
            case "docker":
                return ["pull", image]
            case "podman":
                return ["pull", PLAIN, image]
        target = f"oci:{self._layout('pulled', image)}:1"
        return ["copy", "--preserve-digests", "--src-tls-verify=false", f"docker://{image}", target]

    def pull(self, image: str) -> str:
        """Pull the image anew; what identifies it."""
        if self.name != "skopeo":
            self.client.succeeds("rmi", image)
        self.client.succeeds(*self.pull_command(image))
        if self.name != "skopeo":
            return self._image_id(image)
        index = json.loads((self._layout("pulled", image) / "index.json").read_text())
        return str(index["manifests"][0]["digest"])

    def _layout(self, kind: str, image: str) -> Path:
        return self.folder / f"{kind}-{image.replace('/', '-').replace(':', '-')}"

    def _image_id(self, image: str) -> str:
        return self.client.succeeds("image", "inspect", "--format", "{{.Id}}", image).stdout.strip()


@pytest.fixture(params=["docker", "skopeo", "podman"])
def tool(request: pytest.FixtureRequest, folder: Path) -> Tool:
    """Return each client, not logged in."""
    return Tool(request.getfixturevalue(f"anonymous_{request.param}"), folder)


@pytest.fixture(params=["basic", "bearer"])
def asking(request: pytest.FixtureRequest) -> Registry:
    """Return a registry that asks for Basic credentials, and one that sends clients to its token endpoint."""
    registry: Registry = request.getfixturevalue("registry" if request.param == "basic" else "token_registry")
    return registry


def in_team(registry: Registry) -> str:
    """Return an image in a repository that the limited credentials are for."""
    return f"{registry.host}/team/{secrets.token_hex(4)}:1"


@pytest.mark.parametrize("credential", ["password", "stretched", "jwt"])
def test_login_push_and_pull(tool: Tool, asking: Registry, credential: str, token: str) -> None:
    """Credentials for `team/**` push there, pull again what was pushed, and are denied elsewhere."""
    user = {"password": WRITER, "stretched": PERSON, "jwt": User("token", token)}[credential]
    tool.log_in(asking, user)
    image = in_team(asking)
    made = tool.make(image)
    tool.client.succeeds(*tool.push_command(image))
    assert tool.pull(image) == made
    if credential != "password":
        elsewhere = image.replace("/team/", "/other/")
        tool.make(elsewhere)
        result = tool.client.fails(*tool.push_command(elsewhere))
        assert re.search("denied|forbidden", (result.stdout + result.stderr).lower()), result.stderr


def test_wrong_credentials(tool: Tool, asking: Registry, token: str) -> None:
    """A wrong password and a token that was cut are refused at login."""
    for user in (replace(PERSON, password="wrong"), User("token", token[:-4])):
        result = tool.client.fails(*login_command(tool.client, asking, user), stdin=user.password)
        assert re.search("(?i)unauthorized|invalid username/password", result.stderr), result.stderr


def test_anonymous_pull(tool: Tool, token_registry: Registry) -> None:
    """Who never logged in pulls what is public, and neither pushes there nor pulls the rest."""
    for name, is_public in (("public", True), ("team", False)):
        image = f"{token_registry.host}/{name}/{secrets.token_hex(4)}:1"
        made = tool.make(image)
        tool.client.fails(*tool.push_command(image))
        tool.log_in(token_registry, WRITER)
        tool.client.succeeds(*tool.push_command(image))
        tool.client.succeeds("logout", token_registry.host)
        if is_public:
            assert tool.pull(image) == made
        else:
            tool.client.fails(*tool.pull_command(image))


def test_a_job_logs_in_with_its_identity(tool: Tool, token_registry: Registry, issuer: Issuer) -> None:
    """The identity token is the password: docker exchanges it at login, the others each time."""
    tool.log_in(token_registry, User("job", issuer.sign({"repository": "org/app"})))
    image = f"{token_registry.host}/org/app:{secrets.token_hex(4)}"
    made = tool.make(image)
    tool.client.succeeds(*tool.push_command(image))
    assert tool.pull(image) == made
    elsewhere = image.replace("/org/app", "/org/other")
    tool.make(elsewhere)
    tool.client.fails(*tool.push_command(elsewhere))


def test_docker_keeps_no_password(anonymous_docker: Client, token_registry: Registry) -> None:
    """With Bearer tokens, `docker login` keeps a refresh token instead."""
    anonymous_docker.succeeds(*login_command(anonymous_docker, token_registry, PERSON), stdin=PERSON.password)
    config = Path(anonymous_docker.environment["DOCKER_CONFIG"]) / "config.json"
    kept = json.loads(config.read_text())["auths"][token_registry.host]
    assert kept["identitytoken"].count(".") == 2
    assert PERSON.password not in config.read_text()
