"""Every row of the spec's table "Endpoints" as a type: a request line is parsed once, into a value of one of them.

`registry.spec.paths` converts between request lines and these values. The values are validated: handlers never parse
a path.
"""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from registry.spec.names import Digest, Reference, RepositoryName, Tag


class Access(Enum):
    """An action on a repository, which access control allows or denies."""

    PULL = "pull"
    PUSH = "push"
    DELETE = "delete"


EVERYTHING = frozenset(Access)


class Mode(Enum):
    """What garbage collection deletes; each mode includes the one before. serverless-registry has the last two."""

    DELETED = "deleted"  # only what deletions left behind: tombstones, and entries of referrers
    UNREFERENCED = "unreferenced"  # also blobs that no manifest refers to
    UNTAGGED = "untagged"  # also manifests that no tag reaches, and their blobs


def parse_mode(text: str) -> Mode:
    """Parse a mode that can be requested, so not DELETED, which always runs. Raises ValueError with a sentence."""
    mode = {one.value: one for one in (Mode.UNREFERENCED, Mode.UNTAGGED)}.get(text)
    if mode is None:
        raise ValueError("must be unreferenced or untagged")
    return mode


_PULL = frozenset({Access.PULL})
_PUSH = frozenset({Access.PUSH})
_DELETE = frozenset({Access.DELETE})
# As in serverless-registry: HEAD reveals no content, and a pusher uses it to skip blobs that are already stored.
_PULL_OR_PUSH = frozenset({Access.PULL, Access.PUSH})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Base of all endpoints: `row` is the spec's number; the caller needs one of the actions in `access`."""

    row: ClassVar[str]
    method: ClassVar[str]
    access: ClassVar[frozenset[Access]]


@dataclass(frozen=True, slots=True)
class Open(Endpoint):
    """An endpoint without access control: the router ignores credentials; the handler checks them if it needs to."""


@dataclass(frozen=True, slots=True)
class ShowFrontPage(Open):
    """GET /: a page that says what this server is and how to log in."""

    row, method, access = "front", "GET", frozenset()


@dataclass(frozen=True, slots=True)
class CheckHealth(Open):
    """GET /healthz, the health check: whether the registry reaches its bucket."""

    row, method, access = "health", "GET", frozenset()


@dataclass(frozen=True, slots=True)
class ShowMetrics(Endpoint):
    """GET /metrics: counters of the requests that this isolate answered, for Prometheus."""

    row, method, access = "metrics", "GET", _PULL


@dataclass(frozen=True, slots=True)
class CheckVersion(Endpoint):
    """GET /v2/: tells a client that this is a registry, and whether its credentials are valid."""

    row, method, access = "end-1", "GET", EVERYTHING


@dataclass(frozen=True, slots=True)
class InRepository(Endpoint):
    """An endpoint of one repository."""

    name: RepositoryName


@dataclass(frozen=True, slots=True)
class GetBlob(InRepository):
    row, method, access = "end-2", "GET", _PULL
    digest: Digest


@dataclass(frozen=True, slots=True)
class HeadBlob(InRepository):
    row, method, access = "end-2", "HEAD", _PULL_OR_PUSH
    digest: Digest


@dataclass(frozen=True, slots=True)
class GetManifest(InRepository):
    row, method, access = "end-3", "GET", _PULL
    reference: Reference


@dataclass(frozen=True, slots=True)
class HeadManifest(InRepository):
    row, method, access = "end-3", "HEAD", _PULL_OR_PUSH
    reference: Reference


@dataclass(frozen=True, slots=True)
class StartUpload(InRepository):
    row, method, access = "end-4a", "POST", _PUSH


@dataclass(frozen=True, slots=True)
class UploadBlob(InRepository):
    """POST with the whole blob as the body."""

    row, method, access = "end-4b", "POST", _PUSH
    digest: Digest


@dataclass(frozen=True, slots=True)
class StartUploadFor(InRepository):
    """POST that names the digest algorithm of the blob to be uploaded."""

    row, method, access = "end-4c", "POST", _PUSH
    algorithm: str


@dataclass(frozen=True, slots=True)
class MountBlob(InRepository):
    """POST that requests a cross-repository mount; without `source` the blob may come from any repository."""

    row, method, access = "end-11", "POST", _PUSH
    digest: Digest
    source: RepositoryName | None


@dataclass(frozen=True, slots=True)
class InSession(InRepository):
    """An endpoint of an upload session.

    `session` is the session id that the client sent, not verified yet. `entry` is the start offset of the newest entry
    in the session's log. The previous `Location` contained it, so that one read finds the session's state.
    """

    session: str
    entry: int | None


@dataclass(frozen=True, slots=True)
class AppendChunk(InSession):
    row, method, access = "end-5", "PATCH", _PUSH


@dataclass(frozen=True, slots=True)
class CloseUpload(InSession):
    row, method, access = "end-6", "PUT", _PUSH
    digest: Digest


@dataclass(frozen=True, slots=True)
class GetUpload(InSession):
    row, method, access = "end-13", "GET", _PUSH


@dataclass(frozen=True, slots=True)
class CancelUpload(InSession):
    row, method, access = "end-14", "DELETE", _PUSH


@dataclass(frozen=True, slots=True)
class PutManifest(InRepository):
    """PUT of a manifest; `tags` are the additional tags of end-7b."""

    row, method, access = "end-7", "PUT", _PUSH
    reference: Reference
    tags: tuple[Tag, ...] = ()


@dataclass(frozen=True, slots=True)
class ListTags(InRepository):
    row, method, access = "end-8", "GET", _PULL
    count: int | None
    last: str | None


@dataclass(frozen=True, slots=True)
class DeleteManifest(InRepository):
    row, method, access = "end-9", "DELETE", _DELETE
    reference: Reference


@dataclass(frozen=True, slots=True)
class DeleteBlob(InRepository):
    row, method, access = "end-10", "DELETE", _DELETE
    digest: Digest


@dataclass(frozen=True, slots=True)
class ListReferrers(InRepository):
    row, method, access = "end-12", "GET", _PULL
    digest: Digest
    artifact_type: str | None
    last: Digest | None = None


@dataclass(frozen=True, slots=True)
class ListRepositories(Endpoint):
    """GET /v2/_catalog of Docker's registry API; the OCI spec does not have this endpoint."""

    row, method, access = "catalog", "GET", _PULL
    count: int | None
    last: str | None


@dataclass(frozen=True, slots=True)
class Migrate(Endpoint):
    """POST /v2/_migrate: the next step of the migration from serverless-registry. Only this registry has it."""

    row, method, access = "migrate", "POST", _DELETE


@dataclass(frozen=True, slots=True)
class CollectGarbage(InRepository):
    """POST /v2/<name>/gc, which serverless-registry has, too. `grace` is in seconds."""

    row, method, access = "gc", "POST", _DELETE
    mode: Mode
    grace: int | None
    dry_run: bool


@dataclass(frozen=True, slots=True)
class VerifyRepository(InRepository):
    """GET /v2/<name>/gc?mode=verify: whether the repository lacks any object."""

    row, method, access = "verify", "GET", _DELETE


@dataclass(frozen=True, slots=True)
class PreviewRetention(Endpoint):
    """GET /v2/_retention: what the retention rules would delete now. `last` is where the previous page ended."""

    row, method, access = "retention", "GET", _DELETE
    last: str | None


@dataclass(frozen=True, slots=True)
class GetToken(Open):
    """GET of the distribution project's token specification; `scopes` are not parsed yet."""

    row, method, access = "token", "GET", EVERYTHING
    scopes: tuple[str, ...]
    offline: bool


@dataclass(frozen=True, slots=True)
class PostToken(Open):
    """POST of the token specification's OAuth2 variant; the body has the parameters."""

    row, method, access = "token", "POST", EVERYTHING
