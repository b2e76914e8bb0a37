"""Parses the target of a push, in docker's notation: `registry.example.com/team/app:1`."""

import ipaddress
import re
from dataclasses import dataclass

from registry_push.failures import Misused

# The specification's expressions for a repository name and a tag.
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*", re.ASCII)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", re.ASCII)
# The specification's grammar of a digest.
DIGEST = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+", re.ASCII)
_DOCKER_HUB = "registry-1.docker.io"


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry's address: `host` includes the port if there is one, and is the key of the stored credentials."""

    scheme: str
    host: str

    @property
    def origin(self) -> str:
        """Scheme and host, the start of all its URLs."""
        return f"{self.scheme}://{self.host}"


@dataclass(frozen=True, slots=True)
class Target:
    """A tag in a repository of a registry."""

    registry: Registry
    repository: str
    tag: str

    def __str__(self) -> str:
        """Return docker's notation."""
        return f"{self.registry.host}/{self.repository}:{self.tag}"


def parse_registry(text: str, *, insecure: bool) -> Registry:
    """Parse a host or a URL. Plain HTTP is for loopback, or for any host when `insecure`. Raises Misused."""
    scheme, mark, host = text.rpartition("://")
    host = host.rstrip("/")
    if not host or "/" in host or "@" in host or (mark and scheme not in ("http", "https")):
        raise Misused(
            f"{text} is not the address of a registry, such as registry.example.com or https://localhost:5000"
        )
    local = is_loopback(host)
    if scheme == "http" and not (local or insecure):
        raise Misused(f"{text}: plain HTTP would expose the password to the network; use https://, or pass --insecure")
    if not scheme:
        scheme = "http" if local or insecure else "https"
    return Registry(scheme, _DOCKER_HUB if host == "docker.io" else host)


def parse_target(text: str, *, insecure: bool) -> Target:
    """Parse an image's name with its registry; the default tag is `latest`. Raises Misused."""
    scheme, mark, rest = text.rpartition("://")
    host, slash, path = rest.partition("/")
    if not slash or not ({".", ":"} & set(host) or host == "localhost"):
        raise Misused(f"{text} does not name a registry: pass a target such as --to registry.example.com/{rest}")
    repository, _, tag = path.partition(":")
    if "@" in path:
        raise Misused(f"{text}: the target must be a tag instead of a digest")
    if _NAME.fullmatch(repository) is None:
        raise Misused(f"{repository} is not a repository name: use lower-case letters and digits, such as team/app")
    if ":" in path and _TAG.fullmatch(tag) is None:
        raise Misused(f"{tag} is not a tag: use at most 128 letters, digits, dots, dashes and underscores")
    return Target(parse_registry(f"{scheme}{mark}{host}", insecure=insecure), repository, tag or "latest")


def is_loopback(host: str) -> bool:
    """Whether the host, with or without a port, is loopback. Names below localhost are not: some machines ask DNS."""
    name = host.lower()
    if name.startswith("[") or name.count(":") == 1:
        name = re.sub(r":\d+\Z", "", name)  # otherwise all colons belong to an IPv6 address
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
