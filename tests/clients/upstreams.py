"""Other registries to pull through: Debian's docker-registry with each kind of authentication."""

import base64
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from .loopback import QuietHandler, serving
from .processes import Server
from .target import User, free_port

DOCKER_REGISTRY = Path("/usr/bin/docker-registry")
USER = User("upstream-user", "upstream-secret")
# bcrypt, as htpasswd makes it of that password.
HTPASSWD = f"{USER.name}:$2b$04$G22wQwQsDzKnFy/Hb9AWUOoDfhxDsrXXSLoFw7QPfXFUX2zupoocq\n"
KINDS = ("none", "htpasswd", "token")
_ISSUER, _SERVICE = "the token server", "the other registry"


@contextmanager
def docker_registry(kind: str, folder: Path) -> Iterator[tuple[str, str | None]]:
    """Run docker-registry with this authentication, its files in a new folder.

    Yields its host with the port, and the origin of the token server that it sends clients to.
    """
    token_server = None
    assert DOCKER_REGISTRY.exists(), f"{DOCKER_REGISTRY} is missing: run tests/clients/install.sh"
    folder.mkdir()
    port = free_port()
    config: dict[str, Any] = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    with ExitStack() as stack:
        if kind == "htpasswd":
            (folder / "htpasswd").write_text(HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "there", "path": str(folder / "htpasswd")}}
        elif kind == "token":
            token_server = stack.enter_context(_token_server(folder / "certificate.pem"))
            config["auth"] = {
                "token": {
                    "realm": f"{token_server}/token",
                    "service": _SERVICE,
                    "issuer": _ISSUER,
                    "rootcertbundle": str(folder / "certificate.pem"),
                }
            }
        path = folder / "config.json"  # YAML, too
        path.write_text(json.dumps(config))
        command = [str(DOCKER_REGISTRY), "serve", str(path)]
        with Server("docker-registry", command, {"OTEL_TRACES_EXPORTER": "none"}, "listening on"):
            yield f"localhost:{port}", token_server


@contextmanager
def _token_server(certificate: Path) -> Iterator[str]:
    """Serve tokens as the token specification says, by GET with Basic credentials; its origin."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _ISSUER)])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate.write_bytes(signed.public_bytes(Encoding.PEM))
    header = {"x5c": [base64.b64encode(signed.public_bytes(Encoding.DER)).decode()]}
    expected = "Basic " + base64.b64encode(USER.credentials.encode()).decode()

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802 - http.server's name
            if self.headers["Authorization"] != expected:
                self.answer(401)
                return
            asked = parse_qs(urlsplit(self.path).query)
            access = []
            for scope in asked.get("scope", []):
                kind, repository, actions = scope.split(":")
                access.append({"type": kind, "name": repository, "actions": actions.split(",")})
            seconds = int(time.time())
            claims = {
                "iss": _ISSUER,
                "sub": USER.name,
                "aud": asked["service"][0],
                "exp": seconds + 60,
                "nbf": seconds - 10,
                "iat": seconds - 10,
                "jti": "1",
                "access": access,
            }
            answer = json.dumps({"token": jwt.encode(claims, key, "RS256", headers=header), "expires_in": 60}).encode()
            self.answer(200, answer)

    with serving(Handler) as port:
        yield f"http://127.0.0.1:{port}"
