"""Every row of the spec's table "Endpoints" as a type: a request is parsed once, into one of these values.

`registry.spec.paths` makes them from a request line, and request lines from them. What a value holds was checked;
handlers never look at a path again.
"""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from registry.spec.names import Digest, Reference, RepositoryName, Tag


class Access(Enum):
    """What a caller may do with a repository."""

    PULL = "pull"
    PUSH = "push"
    DELETE = "delete"


EVERYTHING = frozenset(Access)


class Mode(Enum):
    """What is collected, as serverless-registry has it, and the least of it."""

    DELETED = "deleted"  # only what deletions left: tombstones, and entries of referrers
    UNREFERENCED = "unreferenced"  # also blobs that no manifest refers to
    UNTAGGED = "untagged"  # also manifests that no tag reaches, and their blobs


def parse_mode(text: str) -> Mode:
    """A mode that can be asked for; the least is what the clean-up does anyway. Raises ValueError with a sentence."""
    mode = {one.value: one for one in (Mode.UNREFERENCED, Mode.UNTAGGED)}.get(text)
    if mode is None:
        raise ValueError("it is unreferenced or untagged")
    return mode


_PULL = frozenset({Access.PULL})
_PUSH = frozenset({Access.PUSH})
_DELETE = frozenset({Access.DELETE})
# As in SR: HEAD tells no content, and a pusher asks with it what need not be uploaded.
_PULL_OR_PUSH = frozenset({Access.PULL, Access.PUSH})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Base of all rows: `row` is the spec's number, `access` what the caller needs (any one of it)."""

    row: ClassVar[str]
    method: ClassVar[str]
    access: ClassVar[frozenset[Access]]


@dataclass(frozen=True, slots=True)
class Open(Endpoint):
    """An endpoint that anybody may ask, whatever credentials come along: it looks at them itself, if at all."""


@dataclass(frozen=True, slots=True)
class ShowFrontPage(Open):
    """GET /: what this is and how to log in."""

    row, method, access = "front", "GET", frozenset()


@dataclass(frozen=True, slots=True)
class CheckHealth(Open):
    """GET /healthz: whether the registry reaches its bucket."""

    row, method, access = "health", "GET", frozenset()


@dataclass(frozen=True, slots=True)
class ShowMetrics(Endpoint):
    """GET /metrics: what this isolate has answered, for Prometheus."""

    row, method, access = "metrics", "GET", _PULL


@dataclass(frozen=True, slots=True)
class CheckVersion(Endpoint):
    """GET /v2/: whether this is a registry, and whether the credentials are right."""

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
    """POST with the whole blob."""

    row, method, access = "end-4b", "POST", _PUSH
    digest: Digest


@dataclass(frozen=True, slots=True)
class StartUploadFor(InRepository):
    """POST that names the algorithm of the digest to come."""

    row, method, access = "end-4c", "POST", _PUSH
    algorithm: str


@dataclass(frozen=True, slots=True)
class MountBlob(InRepository):
    """POST that asks for a blob of another repository; without `source` any repository would do."""

    row, method, access = "end-11", "POST", _PUSH
    digest: Digest
    source: RepositoryName | None


@dataclass(frozen=True, slots=True)
class InSession(InRepository):
    """An endpoint of an upload session.

    `session` is its id as the client gave it, not verified yet. `entry` is where the newest entry of its log starts,
    as our `Location` named it, so that one read finds the state.
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
    """PUT of a manifest; `tags` are the extra ones of end-7b."""

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
    """GET /v2/_catalog, of Docker's registry API; the OCI spec has no row for it."""

    row, method, access = "catalog", "GET", _PULL
    count: int | None
    last: str | None


@dataclass(frozen=True, slots=True)
class Migrate(Endpoint):
    """POST /v2/_migrate: the next step of the migration from SR. Ours alone."""

    row, method, access = "migrate", "POST", _DELETE


@dataclass(frozen=True, slots=True)
class CollectGarbage(InRepository):
    """POST /v2/<name>/gc, as SR has it. `grace` is in seconds."""

    row, method, access = "gc", "POST", _DELETE
    mode: Mode
    grace: int | None
    dry_run: bool


@dataclass(frozen=True, slots=True)
class VerifyRepository(InRepository):
    """GET /v2/<name>/gc?mode=verify: whether everything is there."""

    row, method, access = "verify", "GET", _DELETE


@dataclass(frozen=True, slots=True)
class PreviewRetention(Endpoint):
    """GET /v2/_retention: what the rules would delete now. `last`: where an answer before ended."""

    row, method, access = "retention", "GET", _DELETE
    last: str | None


@dataclass(frozen=True, slots=True)
class GetToken(Open):
    """GET of the distribution project's token specification; `scopes` as they came."""

    row, method, access = "token", "GET", EVERYTHING
    scopes: tuple[str, ...]
    offline: bool


@dataclass(frozen=True, slots=True)
class PostToken(Open):
    """POST of its OAuth2 variant; what is asked for stands in the body."""

    row, method, access = "token", "POST", EVERYTHING
