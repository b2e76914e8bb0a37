"""What a caller may do: what its credentials allow, and what everybody may."""

from collections.abc import Iterable

from registry.access.callers import Caller
from registry.access.permissions import NOTHING, Glob, Permissions, allow
from registry.access.scopes import Scopes
from registry.spec.endpoints import (
    EVERYTHING,
    Access,
    CheckVersion,
    Endpoint,
    InRepository,
    ListRepositories,
    Migrate,
    MountBlob,
    PreviewRetention,
    ShowMetrics,
    StartUpload,
)
from registry.spec.errors import Problem, RegistryError


class Authorizer:
    """Decides what callers may do."""

    def __init__(self, anonymous_pull: Iterable[Glob]) -> None:
        """Anybody may pull from repositories that match one of `anonymous_pull`."""
        self._public = allow({Access.PULL}, *(glob.text for glob in anonymous_pull))

    @property
    def allows_anonymous(self) -> bool:
        """Whether anything may be pulled without credentials."""
        return bool(self._public.tables)

    def admit(self, caller: Caller | None, endpoint: Endpoint) -> Endpoint:
        """What the caller may do of it. Raises UNAUTHORIZED or DENIED unless the caller has what the endpoint needs.

        A mount from where the caller may not pull is an ordinary upload: the answer must not tell what is there.
        """
        if not self._allowed(caller, endpoint) & endpoint.access:
            raise _refusal(caller, endpoint)
        if isinstance(endpoint, MountBlob) and not (
            endpoint.source is None or Access.PULL in self.allowed_on(caller, endpoint.source)
        ):
            return StartUpload(endpoint.name)
        return endpoint

    def allowed_on(self, caller: Caller | None, name: str) -> frozenset[Access]:
        """What the caller may do with a repository: what everybody may is among it."""
        own = NOTHING if caller is None else caller.permissions.on(name)
        return own | self._public.on(name)

    def allowed(self, caller: Caller) -> Permissions:
        """All that the caller may."""
        return caller.permissions | self._public

    def listing(self, caller: Caller) -> Permissions:
        """Which repositories the catalogue shows the caller."""
        return self.allowed(caller) if caller.grant is None else caller.grant.listing

    def _allowed(self, caller: Caller | None, endpoint: Endpoint) -> frozenset[Access]:
        if isinstance(endpoint, InRepository):
            return self.allowed_on(caller, endpoint.name)
        if caller is None:
            return NOTHING
        match endpoint:
            case CheckVersion():
                return caller.permissions.anywhere() if caller.grant is None else EVERYTHING
            case ListRepositories():
                return (self.allowed(caller) if caller.grant is None else caller.grant.listing).anywhere()
            case Migrate() | PreviewRetention() | ShowMetrics():
                return caller.permissions.everywhere()
        return NOTHING


def _refusal(caller: Caller | None, endpoint: Endpoint) -> RegistryError:
    if caller is None or not caller.name:
        return RegistryError(Problem.UNAUTHORIZED)
    if caller.grant is not None and not _was_denied(caller.grant.denied, endpoint):
        return RegistryError(Problem.TOKEN_TOO_NARROW)
    needed = " or ".join(sorted(access.value for access in endpoint.access))
    where = f" in {endpoint.name}" if isinstance(endpoint, InRepository) else " here"
    return RegistryError(Problem.DENIED, f"this account may not {needed}{where}")


def _was_denied(denied: Scopes, endpoint: Endpoint) -> bool:
    """Whether the token was asked for what is needed now, so that asking again is of no use."""
    match endpoint:
        case InRepository(name):
            return bool(denied.permissions().on(name) & endpoint.access)
        case ListRepositories():
            return denied.catalog
    return True
