"""What can be wrong with a request, as one table: error code, HTTP status, and the sentence the spec has for it.

Everything below the router raises `RegistryError` with a row of this table; `registry.api.router` renders it once.
A message says what is wrong and what to do; it never repeats a secret.
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
    RANGE_INVALID = ("RANGE_INVALID", 416, "the range begins behind the last byte")  # not in the spec's table
    BLOB_TOO_LARGE = ("SIZE_INVALID", 413, "blob too large")  # code-10
    UNAUTHORIZED = ("UNAUTHORIZED", 401, "authentication required")  # code-11
    TOKEN_TOO_NARROW = (
        "UNAUTHORIZED",
        401,
        "the token is not for this: ask for one with the challenge's scope",
    )  # code-11
    DENIED = ("DENIED", 403, "requested access to the resource is denied")  # code-12
    UNSUPPORTED = ("UNSUPPORTED", 405, "the operation is unsupported")  # code-13
    NOT_MIGRATED = ("UNSUPPORTED", 409, "the bucket still has links of serverless-registry: POST /v2/_migrate first")
    GC_BUSY = ("UNSUPPORTED", 409, "garbage of this repository is being collected by another run; try again later")
    GC_UNSAFE = ("UNSUPPORTED", 409, "a manifest cannot be read, so nobody knows what is garbage")
    NEEDS_MORE_CALLS = ("UNSUPPORTED", 409, "this takes more R2 calls than R2_CALLS allows")
    BAD_REQUEST = ("UNSUPPORTED", 400, "the request cannot be understood")  # no row of the spec fits better
    NOT_FOUND = ("UNSUPPORTED", 404, "there is nothing at this path")  # not a path of the spec
    TOO_SLOW = ("UNSUPPORTED", 408, "the body did not arrive in time; try again")
    TOO_MANY_REQUESTS = ("TOOMANYREQUESTS", 429, "too many requests")  # code-14
    UNAVAILABLE = ("TOOMANYREQUESTS", 503, "the storage did not answer; try again")
    # Not in the spec's table.
    UPSTREAM_FAILED = ("UNAVAILABLE", 502, "a registry behind this one failed")
    UPSTREAM_SLOW = ("UNAVAILABLE", 504, "a registry behind this one did not answer in time")
    # The last one is not a row of the spec: a fault of ours, never of the client's.
    INTERNAL = ("UNKNOWN", 500, "internal error")

    def __init__(self, code: str, status: int, message: str) -> None:
        self.code = code
        self.status = status
        self.message = message


_MAX_MESSAGE = 600  # characters: some of them may be a stranger's


class RegistryError(Exception):
    """The request ends here with `problem`.

    `message` replaces the table's sentence, `details` are JSON values for the client, each in an entry of its own,
    `headers` go on the answer (`Allow`, `Range`, `Location`, `Retry-After`). `account` is the existing one whose secret
    was wrong: for the log alone.
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
        """The `errors` array of the answer's body (spec, "Error Codes")."""
        entry: dict[str, object] = {"code": self.problem.code, "message": self.message}
        return [{**entry, "detail": detail} for detail in self.details] or [entry]


def is_cpu_limit(error: BaseException) -> bool:
    """Whether the runtime ends the request because its CPU time is used, but for a moment to tidy up.

    It raises that wherever Python is, as a BaseException of a class that nothing can import.
    """
    return type(error).__name__ == "CpuLimitExceeded"
