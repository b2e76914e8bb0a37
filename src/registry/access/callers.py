"""Who sent a request, once that is proved."""

from dataclasses import dataclass

from registry.access.permissions import Permissions
from registry.access.scopes import Scopes


@dataclass(frozen=True, slots=True)
class Grant:
    """What an access token of ours was asked for and may not, and which repositories the catalogue shows to it."""

    denied: Scopes
    listing: Permissions


@dataclass(frozen=True, slots=True)
class Caller:
    """`name` is for the log; an empty one is nobody's, whose token is for anonymous pulls."""

    name: str
    permissions: Permissions
    grant: Grant | None = None  # only for who came with an access token of ours
