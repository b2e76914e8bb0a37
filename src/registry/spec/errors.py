"""Every error of a request, as one table: error code, HTTP status and default message.

Code below the router raises `RegistryError` with a row of this table; `registry.api.router` makes the answer of it.
A message says what is wrong and what to do; it never contains a secret.
"""

from collections.abc import Mapping, Sequence
from enum import Enum


class Problem(Enum):
    """A row is (error code of the spec's table "Error Codes", HTTP status, default message)."""

    BLOB_UNKNOWN = ("BLOB_UNKNOWN", 404, "blob unknown to registry")  # code-1
    UPLOAD_INVALID = ("BLOB_UPLOAD_INVALID", 400, "blob upload invalid")  # code-2
    UPLOAD_OUT_OF_ORDER = ("BLOB_UPLOAD_INVALID", 416, "chunk out of order")  # code-2, end-5, end-6
    UPLOAD_UNKNOWN = ("BLOB_UPLOAD_UNKNOWN", 404, "blob upload unknown to registry")  # code-3
    DIGEST_INVALID = ("DIGEST_INVALID", 400, "provided digest did not match uploaded content")  # code-4
    MANIFEST_BLOB_UNKNOWN = (
        "MANIFEST_BLOB_UNKNOWN",
        404,
        "manifest references a manifest or blob unknown to registry",
    )  # code-5
    MANIFEST_INVALID = ("MANIFEST_INVALID", 400, "manifest invalid")  # code-6
    MANIFEST_TOO_LARGE = ("MANIFEST_INVALID", 413, "manifest too large")  # code-6, end-7
    TOO_MANY_TAGS = ("MANIFEST_INVALID", 414, "too many tags")  # end-7
    MANIFEST_UNKNOWN = ("MANIFEST_UNKNOWN", 404, "manifest unknown to registry")  # code-7
    NAME_INVALID = ("NAME_INVALID", 400, "invalid repository name")  # code-8
    NAME_UNKNOWN = ("NAME_UNKNOWN", 404, "repository name not known to registry")  # code-9
    SIZE_INVALID = ("SIZE_INVALID", 400, "provided length did not match content length")  # code-10
    RANGE_INVALID = ("RANGE_INVALID", 416, "the range begins after the last byte")  # not in the spec's table
    BLOB_TOO_LARGE = ("SIZE_INVALID", 413, "blob too large")  # code-10
    UNAUTHORIZED = ("UNAUTHORIZED", 401, "authentication required")  # code-11
    TOKEN_TOO_NARROW = (
        "UNAUTHORIZED",
        401,
        "the token does not cover this request: request a token with the scope in WWW-Authenticate",
    )  # code-11
    DENIED = ("DENIED", 403, "requested access to the resource is denied")  # code-12
    UNSUPPORTED = ("UNSUPPORTED", 405, "the operation is unsupported")  # code-13
    NOT_MIGRATED = ("UNSUPPORTED", 409, "the bucket still has links of serverless-registry: POST /v2/_migrate first")
    GC_BUSY = ("UNSUPPORTED", 409, "another garbage collection of this repository is running; try again later")
    GC_UNSAFE = ("UNSUPPORTED", 409, "a manifest cannot be read, so its blobs are unknown: delete the manifest")
    NEEDS_MORE_CALLS = ("UNSUPPORTED", 409, "the operation needs more R2 calls than the setting R2_CALLS allows")
    BAD_REQUEST = ("UNSUPPORTED", 400, "the request is malformed")  # no row of the spec fits better
    NOT_FOUND = ("UNSUPPORTED", 404, "the registry has no such path")  # not a path of the spec
    TOO_SLOW = ("UNSUPPORTED", 408, "the body did not arrive in time; try again")
    TOO_MANY_REQUESTS = ("TOOMANYREQUESTS", 429, "too many requests")  # code-14
    UNAVAILABLE = ("TOOMANYREQUESTS", 503, "the storage did not answer; try again")
    # Not in the spec's table.
    UPSTREAM_FAILED = ("UNAVAILABLE", 502, "an upstream registry failed; try again")
    UPSTREAM_SLOW = ("UNAVAILABLE", 504, "an upstream registry did not answer in time; try again")
    # Not in the spec's table: a fault of the registry, never of the client.
    INTERNAL = ("UNKNOWN", 500, "internal error")

    def __init__(self, code: str, status: int, message: str) -> None:
        self.code = code
        self.status = status
        self.message = message


_MAX_MESSAGE = 600  # characters: a message may contain text of a client or of another server


class RegistryError(Exception):
    """Ends the request with the error answer for `problem`.

    `message` replaces the table's message. `details` are JSON values for the client, each in an error entry of its own.
    `headers` are added to the answer (`Allow`, `Range`, `Location`, `Retry-After`). `account` is the existing account
    whose secret was wrong; it appears only in the log.
    """

    def __init__(
        self,
        problem: Problem,
        message: str | None = None,
        *,
        details: Sequence[object] = (),
        headers: Mapping[str, str] | None = None,
        account: str | None = None,
    ) -> None:
        self.problem = problem
        self.message = (message or problem.message)[:_MAX_MESSAGE]
        self.details = details
        self.headers: Mapping[str, str] = headers or {}
        self.account = account
        super().__init__(f"{problem.code}: {self.message}")

    def entries(self) -> list[dict[str, object]]:
        """Return the `errors` array of the answer's body (spec, "Error Codes")."""
        entry: dict[str, object] = {"code": self.problem.code, "message": self.message}
        return [{**entry, "detail": detail} for detail in self.details] or [entry]


def is_failure(error: BaseException) -> bool:
    """Whether to handle an error: False for a cancellation and everything else that must be raised again."""
    return isinstance(error, Exception) or is_cpu_limit(error)


def is_cpu_limit(error: BaseException) -> bool:
    """Whether the runtime ends the request because its CPU time is used, but for a moment to tidy up.

    It raises that wherever Python is, as a BaseException of a class that nothing can import.
    """
    return type(error).__name__ == "CpuLimitExceeded"
