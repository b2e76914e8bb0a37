"""Authorization: a caller may do what its permissions allow, and what the operator allows everybody."""

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
    """Decides whether a caller may use an endpoint."""

    def __init__(self, anonymous_pull: Iterable[Glob]) -> None:
        """Everybody may pull from the repositories that `anonymous_pull` matches."""
        self._public = allow({Access.PULL}, *(glob.text for glob in anonymous_pull))

    def admit(self, caller: Caller | None, endpoint: Endpoint) -> Endpoint:
        """Return the endpoint if the caller may use it. Otherwise raises UNAUTHORIZED, TOKEN_TOO_NARROW or DENIED.

        A mount from a repository that the caller may not pull from becomes an ordinary upload: the answer must not
        reveal which blobs that repository has.
        """
        if not self._allowed(caller, endpoint) & endpoint.access:
            raise _refusal(caller, endpoint)
        if isinstance(endpoint, MountBlob) and not (
            endpoint.source is None or Access.PULL in self.allowed_on(caller, endpoint.source)
        ):
            return StartUpload(endpoint.name)
        return endpoint

    def allowed_on(self, caller: Caller | None, name: str) -> frozenset[Access]:
        """The caller's permissions on a repository, which include what everybody may do."""
        own = NOTHING if caller is None else caller.permissions.on(name)
        return own | self._public.on(name)

    def allowed(self, caller: Caller) -> Permissions:
        """All permissions of the caller, which include what everybody may do."""
        return caller.permissions | self._public

    def listing(self, caller: Caller) -> Permissions:
        """The permissions that decide which repositories the catalogue shows to the caller."""
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
    """Whether the needed access was requested for this token and denied: then a new token would not help."""
    match endpoint:
        case InRepository(name):
            return bool(denied.permissions().on(name) & endpoint.access)
        case ListRepositories():
            return denied.catalog
    return True
