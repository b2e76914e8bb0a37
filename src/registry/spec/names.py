"""Validated repository names, tags and digests. Only the parsers of this module make them."""

import re
from dataclasses import dataclass
from typing import NewType

from registry.spec.errors import Problem, RegistryError

RepositoryName = NewType("RepositoryName", str)
Tag = NewType("Tag", str)

# Spec, "Pulling manifests": <name> MUST match the first expression; <tag-or-digest> as a tag MUST match the second.
_NAME = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*", re.ASCII)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", re.ASCII)
# OCI image spec, descriptor.md, "Digests": algorithm ":" encoded; registered algorithms are lower-case hex.
_DIGEST = re.compile(r"([a-z0-9]+(?:[+._-][a-z0-9]+)*):([a-zA-Z0-9=_-]+)", re.ASCII)
_HEX = re.compile(r"[a-f0-9]+", re.ASCII)

# Characters. Spec, "Pulling manifests": many clients limit registry host, "/" and name together to 255. It also
# keeps every key of `registry.storage.keys` below R2's 1,024 bytes.
MAX_NAME_LENGTH = 255

# Algorithm -> hex digits. These algorithms are registered in the image spec and computed by Workers' DigestStream.
ALGORITHMS = {"sha256": 64, "sha512": 128}
_SUPPORTED = re.compile("|".join(f"{name}:[a-f0-9]{{{digits}}}" for name, digits in ALGORITHMS.items()), re.ASCII)


@dataclass(frozen=True, slots=True)
class Digest:
    """A digest of a supported algorithm; `str()` gives its wire form."""

    algorithm: str
    hex: str

    def __str__(self) -> str:
        """The wire form."""
        return f"{self.algorithm}:{self.hex}"


Reference = Tag | Digest
"""The name of a manifest in its repository (spec: <tag-or-digest>)."""


def parse_name(text: str) -> RepositoryName:
    """Check a repository name; raises NAME_INVALID."""
    if len(text) > MAX_NAME_LENGTH:
        raise RegistryError(Problem.NAME_INVALID, f"repository names have at most {MAX_NAME_LENGTH} characters")
    if _NAME.fullmatch(text) is None:
        raise RegistryError(
            Problem.NAME_INVALID,
            "repository names are lower-case letters and digits, separated by '.', '_', '__', '-' or '/'",
        )
    return RepositoryName(text)


def is_name(text: str) -> bool:
    """Whether `text` is a repository name."""
    return len(text) <= MAX_NAME_LENGTH and _NAME.fullmatch(text) is not None


def parse_digest(text: str) -> Digest:
    """Check a digest; raises DIGEST_INVALID, also for an algorithm that is not supported."""
    match = _DIGEST.fullmatch(text)
    if match is None:
        raise RegistryError(Problem.DIGEST_INVALID, "a digest is <algorithm>:<hex>, for example sha256:0f3a...")
    algorithm, encoded = match.groups()
    digits = ALGORITHMS.get(algorithm)
    if digits is None:
        known = " and ".join(ALGORITHMS)
        raise RegistryError(Problem.DIGEST_INVALID, f"digest algorithm not supported: this registry takes {known}")
    if len(encoded) != digits or _HEX.fullmatch(encoded) is None:
        raise RegistryError(Problem.DIGEST_INVALID, f"a {algorithm} digest has {digits} lower-case hex digits")
    return Digest(algorithm, encoded)


def is_digest(text: str) -> bool:
    """Whether `text` is a digest of a supported algorithm."""
    return _SUPPORTED.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    """Whether `text` is a tag."""
    return _TAG.fullmatch(text) is not None


def parse_reference(text: str) -> Reference:
    """Check a tag or digest; raises MANIFEST_INVALID for neither, DIGEST_INVALID for a malformed digest."""
    if ":" in text:
        return parse_digest(text)
    if not is_tag(text):
        raise RegistryError(
            Problem.MANIFEST_INVALID,
            "a tag has 1 to 128 letters, digits, '_', '.' and '-', and does not begin with '.' or '-'",
        )
    return Tag(text)
