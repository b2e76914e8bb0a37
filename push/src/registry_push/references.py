"""Where to push to: `registry.example.com/team/app:1`, as docker writes it."""

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
    """A registry's address: `host` is what credentials are stored under, with the port if there is one."""

    scheme: str
    host: str

    @property
    def origin(self) -> str:
        """The start of all its URLs."""
        return f"{self.scheme}://{self.host}"


@dataclass(frozen=True, slots=True)
class Target:
    """A tag in a repository of a registry."""

    registry: Registry
    repository: str
    tag: str

    def __str__(self) -> str:
        """As docker writes it."""
        return f"{self.registry.host}/{self.repository}:{self.tag}"


def parse_registry(text: str, *, insecure: bool) -> Registry:
    """A host, or its URL. Plain HTTP is for loopback, and elsewhere only when `insecure` allows it."""
    scheme, mark, host = text.rpartition("://")
    host = host.rstrip("/")
    if not host or "/" in host or "@" in host or (mark and scheme not in ("http", "https")):
        raise Misused(f"{text}: not the address of a registry, as in registry.example.com or https://localhost:5000")
    local = is_loopback(host)
    if scheme == "http" and not (local or insecure):
        raise Misused(f"{text}: plain HTTP lets everybody on the way read the password; --insecure allows it")
    if not scheme:
        scheme = "http" if local or insecure else "https"
    return Registry(scheme, _DOCKER_HUB if host == "docker.io" else host)


def parse_target(text: str, *, insecure: bool) -> Target:
    """An image's name with its registry. Without a tag it is `latest`, as everywhere."""
    scheme, mark, rest = text.rpartition("://")
    host, slash, path = rest.partition("/")
    if not slash or not ({".", ":"} & set(host) or host == "localhost"):
        raise Misused(f"{text}: name the registry, too, as in registry.example.com/{rest}; --to does")
    repository, _, tag = path.partition(":")
    if "@" in path:
        raise Misused(f"{text}: an image is pushed to a tag; the digest is what comes out of it")
    if _NAME.fullmatch(repository) is None:
        raise Misused(f"{repository}: not a repository name, which is lower-case, as in team/app")
    if ":" in path and _TAG.fullmatch(tag) is None:
        raise Misused(f"{tag}: not a tag: at most 128 letters, digits, dots, dashes and underscores")
    return Target(parse_registry(f"{scheme}{mark}{host}", insecure=insecure), repository, tag or "latest")


def is_loopback(host: str) -> bool:
    """Whether the host (with or without port) is this machine. Names below localhost are DNS's on some machines."""
    name = host.lower()
    if name.startswith("[") or name.count(":") == 1:
        name = re.sub(r":\d+\Z", "", name)  # else all colons are those of an address
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
