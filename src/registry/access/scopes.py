"""Scopes of the distribution project's token specification: the access for which a client requests a token."""

from collections.abc import Iterable
from dataclasses import dataclass

from registry.access.permissions import NOTHING, Permissions, allow
from registry.spec.endpoints import Access, Endpoint, InRepository, ListRepositories, MountBlob
from registry.spec.errors import RegistryError
from registry.spec.names import parse_name

CATALOG = "registry:catalog:*"
_MAX_SCOPES = 50  # docker requests two at most; each makes the token longer

# The access in a challenge to a push: the pusher also needs to ask which blobs are already stored.
_WITH_PULL = frozenset({Access.PULL, Access.PUSH})


@dataclass(frozen=True, slots=True)
class Scopes:
    """Requested or granted access: actions on repositories, by full name, and the catalogue."""

    repositories: tuple[tuple[str, frozenset[Access]], ...] = ()
    catalog: bool = False

    def permissions(self) -> Permissions:
        """Convert to permissions of a caller."""
        tables = (allow(access, name) for name, access in self.repositories if access)
        return Permissions(tuple(table for one in tables for table in one.tables))

    def cut(self, allowed: Permissions) -> "Scopes":
        """Reduce to the access that `allowed` permits."""
        repositories = tuple((name, access & allowed.on(name)) for name, access in self.repositories)
        return Scopes(repositories, self.catalog and Access.PULL in allowed.anywhere())

    def as_json(self) -> list[dict[str, object]]:
        """Encode as the claim `access` of the token specification."""
        entries: list[dict[str, object]] = [
            {"type": "repository", "name": name, "actions": sorted(one.value for one in access)}
            for name, access in self.repositories
        ]
        return entries + ([{"type": "registry", "name": "catalog", "actions": ["*"]}] if self.catalog else [])


def parse_scopes(values: Iterable[str]) -> Scopes:
    """Parse `scope` parameters, each of which may contain several scopes. Ignores unknown scopes without an error."""
    asked: dict[str, frozenset[Access]] = {}
    catalog = False
    for scope in [scope for value in values for scope in value.split()][:_MAX_SCOPES]:
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        if scope == CATALOG:
            catalog = True
        elif kind.partition("(")[0] == "repository":
            try:
                asked[name] = asked.get(parse_name(name), NOTHING) | _parse_actions(actions)
            except RegistryError:
                continue
    return Scopes(tuple(asked.items()), catalog)


def _parse_actions(text: str) -> frozenset[Access]:
    named = text.split(",")
    return frozenset(access for access in Access if access.value in named or "*" in named)


def scope_of(endpoint: Endpoint | None) -> str | None:
    """The scope in a challenge: the one that a token needs for this endpoint; None if there is no such scope."""
    if isinstance(endpoint, ListRepositories):
        return CATALOG
    if not isinstance(endpoint, InRepository):
        return None
    access = endpoint.access
    if Access.PULL in access:
        access = frozenset({Access.PULL})
    elif Access.PUSH in access:
        access = _WITH_PULL
    scope = f"repository:{endpoint.name}:{','.join(sorted(one.value for one in access))}"
    if isinstance(endpoint, MountBlob) and endpoint.source is not None:
        scope += f" repository:{endpoint.source}:pull"
    return scope
