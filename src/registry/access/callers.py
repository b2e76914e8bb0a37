"""The authenticated caller of a request."""

from dataclasses import dataclass

from registry.access.permissions import Permissions
from registry.access.scopes import Scopes


@dataclass(frozen=True, slots=True)
class Grant:
    """From an access token: the requested access that was denied, and what the catalogue shows."""

    denied: Scopes
    listing: Permissions


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller. `name` is for the log; it is empty for a token for anonymous pulls."""

    name: str
    permissions: Permissions
    grant: Grant | None = None  # only if the credentials are an access token that the registry issued
