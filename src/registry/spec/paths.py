"""Request lines: `parse` makes an endpoint of one, `build` makes path and query of an endpoint. They are inverses."""

import re
from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl, quote, unquote

from registry.spec.endpoints import (
    AppendChunk,
    CancelUpload,
    CheckHealth,
    CheckVersion,
    CloseUpload,
    CollectGarbage,
    DeleteBlob,
    DeleteManifest,
    Endpoint,
    GetBlob,
    GetManifest,
    GetToken,
    GetUpload,
    HeadBlob,
    HeadManifest,
    InSession,
    ListReferrers,
    ListRepositories,
    ListTags,
    Migrate,
    Mode,
    MountBlob,
    PostToken,
    PreviewRetention,
    PutManifest,
    ShowFrontPage,
    ShowMetrics,
    StartUpload,
    StartUploadFor,
    UploadBlob,
    VerifyRepository,
    parse_mode,
)
from registry.spec.errors import Problem, RegistryError
from registry.spec.names import (
    Digest,
    Reference,
    RepositoryName,
    Tag,
    is_tag,
    parse_digest,
    parse_name,
    parse_reference,
)

# Parameters ?tag= of one push, at two R2 calls each. The specification demands at least 10.
MAX_TAGS = 50
_OFFSET_DIGITS = 15  # of an offset in bytes; the size of R2's largest object has 13


class Query:
    """The query of a request: at most one value for each key, except where the spec allows several."""

    def __init__(self, text: str) -> None:
        try:
            self._pairs = parse_qsl(text, keep_blank_values=True, errors="strict")
        except ValueError:
            raise RegistryError(Problem.BAD_REQUEST, "the query is not valid UTF-8") from None

    def all(self, key: str) -> list[str]:
        """Every value of `key`."""
        return [value for name, value in self._pairs if name == key]

    def one(self, key: str) -> str | None:
        """The value of `key`. A repeated key is refused, since two readers might use different values."""
        values = self.all(key)
        if len(values) > 1:
            raise RegistryError(Problem.BAD_REQUEST, f"the query has {key} more than once")
        return values[0] if values else None

    def count(self, key: str, digits: int = 9) -> int | None:
        """The value of `key` as a whole number of at most `digits` digits."""
        value = self.one(key)
        if value is None:
            return None
        if len(value) > digits or re.fullmatch(r"[0-9]+", value, re.ASCII) is None:
            raise RegistryError(Problem.BAD_REQUEST, f"{key} must be a whole number of at most {digits} digits")
        return int(value)


def parse(method: str, path: str, query: str) -> Endpoint:
    """Parse a request line.

    `path` and `query` are percent-encoded as received; `query` has no "?". Raises NOT_FOUND for an unknown path,
    UNSUPPORTED with `Allow` for a method that the path does not have, and the specific error for a malformed part.
    """
    try:
        segments = [unquote(segment, errors="strict") for segment in path.split("/")]
    except UnicodeDecodeError:
        raise RegistryError(Problem.BAD_REQUEST, "the path is not valid UTF-8") from None
    resource, name, last = _resource(segments)
    parsers = _ROWS[resource]
    parser = parsers.get(method)
    if parser is None:
        allowed = ", ".join(parsers)
        raise RegistryError(Problem.UNSUPPORTED, f"this path supports only {allowed}", headers={"Allow": allowed})
    return parser(name, last, Query(query))


def _resource(segments: list[str]) -> tuple[str, str, str]:
    """The kind of path, its repository name (unchecked) and its last segment."""
    match segments:
        case ["", "" | "healthz" | "metrics" as kind]:
            return kind, "", ""
        case ["", "v2", *rest]:
            return _api_resource(rest)
    raise RegistryError(Problem.NOT_FOUND, "no such path: the registry API is below /v2/")


def _api_resource(segments: list[str]) -> tuple[str, str, str]:
    """Match from the end, since a repository name may itself contain "blobs", "manifests" or "uploads"."""
    match segments:
        case [] | [""]:
            return "base", "", ""
        case ["_catalog" | "_migrate" | "_retention" | "token" as kind]:
            return kind, "", ""
        case [*name, "blobs", "uploads", ""] | [*name, "blobs", "uploads"]:
            return "uploads", "/".join(name), ""
        case [*name, "blobs", "uploads", session]:
            return "session", "/".join(name), session
        case [*name, "tags", "list"]:
            return "tags", "/".join(name), ""
        case [*name, "gc"] if name:
            return "gc", "/".join(name), ""
        case [*name, "blobs" | "manifests" | "referrers" as kind, last]:
            return kind, "/".join(name), last
    raise RegistryError(Problem.NOT_FOUND, "the registry API has no such path")


def _start(name: str, _: str, query: Query) -> Endpoint:
    mount, digest, algorithm = query.one("mount"), query.one("digest"), query.one("digest-algorithm")
    repository = parse_name(name)
    if mount is not None:
        return _mount(repository, mount, query.one("from"))
    if digest is not None:
        return UploadBlob(repository, parse_digest(digest))
    return StartUpload(repository) if algorithm is None else StartUploadFor(repository, algorithm)


def _mount(repository: RepositoryName, mount: str, source: str | None) -> Endpoint:
    """A cross-repository mount; an ordinary upload if the digest or the source is invalid (end-11: SHOULD)."""
    try:
        return MountBlob(repository, parse_digest(mount), None if source is None else parse_name(source))
    except RegistryError:
        return StartUpload(repository)


def _close(name: str, session: str, query: Query) -> Endpoint:
    digest = query.one("digest")
    if digest is None:
        raise RegistryError(Problem.DIGEST_INVALID, "the PUT that closes an upload must have ?digest=<digest>")
    return CloseUpload(parse_name(name), session, query.count("entry", _OFFSET_DIGITS), parse_digest(digest))


def _put_manifest(name: str, last: str, query: Query) -> Endpoint:
    reference, tags = parse_reference(last), query.all("tag")
    for tag in tags:
        if not is_tag(tag):
            raise RegistryError(Problem.MANIFEST_INVALID, "the value of the query parameter tag is not a valid tag")
    if len(tags) > MAX_TAGS:
        raise RegistryError(Problem.TOO_MANY_TAGS, f"a request may have at most {MAX_TAGS} tags: use several requests")
    if tags and not isinstance(reference, Digest):
        raise RegistryError(Problem.MANIFEST_INVALID, "?tag= requires that the manifest is pushed by digest")
    return PutManifest(parse_name(name), reference, tuple(Tag(tag) for tag in dict.fromkeys(tags)))


def _collect(name: str, _: str, query: Query) -> Endpoint:
    mode = query.one("mode")
    try:
        chosen = Mode.UNREFERENCED if mode is None else parse_mode(mode)
    except ValueError as error:
        raise RegistryError(Problem.BAD_REQUEST, f"mode: {error}") from None
    is_dry = query.one("dry_run")
    if is_dry not in (None, "", "true", "false"):
        raise RegistryError(Problem.BAD_REQUEST, "dry_run must be true or false")
    return CollectGarbage(parse_name(name), chosen, query.count("grace"), is_dry in ("", "true"))


def _verify(name: str, _: str, query: Query) -> Endpoint:
    if query.one("mode") != "verify":
        raise RegistryError(Problem.BAD_REQUEST, "GET requires mode=verify; use POST to collect garbage")
    return VerifyRepository(parse_name(name))


def _referrers(name: str, digest: str, query: Query) -> Endpoint:
    last = query.one("last")
    return ListReferrers(
        parse_name(name), parse_digest(digest), query.one("artifactType"), None if last is None else parse_digest(last)
    )


def _existing(last: str) -> Reference:
    """The reference of a requested manifest. Text that is neither tag nor digest names no manifest: 404, not 400."""
    if ":" not in last and not is_tag(last):
        raise RegistryError(Problem.MANIFEST_UNKNOWN)
    return parse_reference(last)


_Parser = Callable[[str, str, Query], Endpoint]

# Kind of path -> method -> parser of the endpoint. `Allow` lists the methods in this order.
_ROWS: Mapping[str, Mapping[str, _Parser]] = {
    "": {"GET": lambda n, x, q: ShowFrontPage(), "HEAD": lambda n, x, q: ShowFrontPage()},
    "healthz": {"GET": lambda n, x, q: CheckHealth(), "HEAD": lambda n, x, q: CheckHealth()},
    "metrics": {"GET": lambda n, x, q: ShowMetrics()},
    "base": {"GET": lambda n, x, q: CheckVersion(), "HEAD": lambda n, x, q: CheckVersion()},
    "_catalog": {"GET": lambda n, x, q: ListRepositories(q.count("n"), q.one("last"))},
    "_migrate": {"POST": lambda n, x, q: Migrate()},
    "_retention": {"GET": lambda n, x, q: PreviewRetention(q.one("last"))},
    "gc": {"GET": _verify, "POST": _collect},
    "token": {
        "GET": lambda n, x, q: GetToken(tuple(q.all("scope")), q.one("offline_token") == "true"),
        "POST": lambda n, x, q: PostToken(),
    },
    "blobs": {
        "GET": lambda n, x, q: GetBlob(parse_name(n), parse_digest(x)),
        "HEAD": lambda n, x, q: HeadBlob(parse_name(n), parse_digest(x)),
        "DELETE": lambda n, x, q: DeleteBlob(parse_name(n), parse_digest(x)),
    },
    "manifests": {
        "GET": lambda n, x, q: GetManifest(parse_name(n), _existing(x)),
        "HEAD": lambda n, x, q: HeadManifest(parse_name(n), _existing(x)),
        "PUT": _put_manifest,
        "DELETE": lambda n, x, q: DeleteManifest(parse_name(n), _existing(x)),
    },
    "uploads": {"POST": _start},
    "session": {
        "GET": lambda n, x, q: GetUpload(parse_name(n), x, q.count("entry", _OFFSET_DIGITS)),
        "PATCH": lambda n, x, q: AppendChunk(parse_name(n), x, q.count("entry", _OFFSET_DIGITS)),
        "PUT": _close,
        "DELETE": lambda n, x, q: CancelUpload(parse_name(n), x, q.count("entry", _OFFSET_DIGITS)),
    },
    "tags": {"GET": lambda n, x, q: ListTags(parse_name(n), q.count("n"), q.one("last"))},
    "referrers": {"GET": _referrers},
}


def build(endpoint: Endpoint) -> str:
    """The path and query of `endpoint`, relative to the origin, for `Location` and `Link`."""
    match endpoint:
        case ShowFrontPage():
            return "/"
        case CheckHealth():
            return "/healthz"
        case ShowMetrics():
            return "/metrics"
        case CheckVersion():
            return "/v2/"
        case Migrate():
            return "/v2/_migrate"
        case PreviewRetention(last):
            return "/v2/_retention" + _query(("last", last))
        case CollectGarbage(name, mode, grace, dry_run):
            dry = "true" if dry_run else None
            return f"/v2/{name}/gc" + _query(("mode", mode.value), ("grace", grace), ("dry_run", dry))
        case VerifyRepository(name):
            return f"/v2/{name}/gc" + _query(("mode", "verify"))
        case GetToken(scopes, offline):
            asked = [("scope", scope) for scope in scopes]
            return "/v2/token" + _query(*asked, ("offline_token", "true" if offline else None))
        case PostToken():
            return "/v2/token"
        case ListRepositories(count, last):
            return "/v2/_catalog" + _query(("n", count), ("last", last))
        case ListTags(name, count, last):
            return f"/v2/{name}/tags/list" + _query(("n", count), ("last", last))
        case ListReferrers(name, digest, artifact_type, last):
            return f"/v2/{name}/referrers/{digest}" + _query(("artifactType", artifact_type), ("last", last))
        case GetBlob(name, digest) | HeadBlob(name, digest) | DeleteBlob(name, digest):
            return f"/v2/{name}/blobs/{digest}"
        case PutManifest(name, reference, tags):
            return f"/v2/{name}/manifests/{reference}" + _query(*(("tag", tag) for tag in tags))
        case GetManifest(name, reference) | HeadManifest(name, reference) | DeleteManifest(name, reference):
            return f"/v2/{name}/manifests/{reference}"
        case StartUpload(name):
            return f"/v2/{name}/blobs/uploads/"
        case UploadBlob(name, digest):
            return f"/v2/{name}/blobs/uploads/" + _query(("digest", digest))
        case StartUploadFor(name, algorithm):
            return f"/v2/{name}/blobs/uploads/" + _query(("digest-algorithm", algorithm))
        case MountBlob(name, digest, source):
            return f"/v2/{name}/blobs/uploads/" + _query(("mount", digest), ("from", source))
        case CloseUpload(name, session, entry, digest):
            return _session_path(name, session) + _query(("entry", entry), ("digest", digest))
        case InSession(name, session, entry):
            return _session_path(name, session) + _query(("entry", entry))
    raise TypeError(endpoint)


def _session_path(name: RepositoryName, session: str) -> str:
    return f"/v2/{name}/blobs/uploads/{quote(session, safe='')}"


def _query(*pairs: tuple[str, object]) -> str:
    given = [f"{key}={quote(str(value), safe=':/')}" for key, value in pairs if value is not None]
    return "?" + "&".join(given) if given else ""
