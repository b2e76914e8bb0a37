"""The bucket as the core sees it: a narrow port over R2, and the streams of bytes that go through it.

`registry.cloudflare` implements it on the real binding, `tests.fakes` in memory; both pass the suite in
`tests.contract`. The bytes of blobs stay on the runtime's side (JavaScript): the core only holds the handles below and
says what goes where.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from registry.spec.names import Digest
from registry.spec.ranges import ByteRange

# Limits of R2 (developers.cloudflare.com/r2/platform/limits, and docs/adr/0009).
MAX_PUT_SIZE = 5_363_466_240  # bytes of one put: 4.995 GiB
MIN_PART_SIZE = 5 * 1024 * 1024  # bytes of every part but the last
MAX_PARTS = 10_000
MAX_DELETE_KEYS = 1_000  # keys of one delete call
# R2 lets a request have 6 connections open (docs/adr/0009); one is left for what runs beside.
IN_FLIGHT = 5
MAX_LIST_KEYS = 1_000  # keys of one page


class StorageError(Exception):
    """The storage refused or failed; the subclasses are what callers tell apart."""


class ChecksumMismatch(StorageError):
    """`put` received other bytes than its checksum says; nothing was stored (R2 10037)."""


class UploadGone(StorageError):
    """The multipart upload was completed, aborted or never was (R2 10024)."""


class PartChanged(StorageError):
    """`complete` named a part that was replaced or never arrived (R2 10025)."""


class StorageBusy(StorageError):
    """R2 asks to slow down: more than one write a second to a key, or too many calls (R2 10058, 429)."""


class PipeBroken(StorageError):
    """Who reads a pipe stopped: a storage that failed, or a client that went away."""


class ClientGone(Exception):
    """The stream that was being read or passed on broke: the client went away."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What the bucket knows of an object without its bytes."""

    key: str
    size: int  # bytes
    etag: str
    uploaded: float  # seconds since the epoch
    content_type: str | None
    metadata: Mapping[str, str]
    checksum: Digest | None  # the one R2 verified at `put`


class Buffer(Protocol):
    """A fixed number of bytes held by the runtime, filled from sources."""

    @property
    def size(self) -> int:
        """Bytes it has room for."""
        ...

    @property
    def is_whole(self) -> bool:
        """Whether its memory is still there: a read that was cancelled keeps it."""
        ...

    def copy(self, start: int, content: "Content") -> None:
        """Write bytes of another buffer at `start`."""
        ...

    def read(self, stop: int) -> bytes:
        """The bytes before `stop`, copied into Python. For documents, never for blobs."""
        ...

    def slice(self, start: int, stop: int) -> "Content":
        """The bytes from `start` to `stop` (exclusive), not copied: do not fill them again while in use."""
        ...


@runtime_checkable
class Source(Protocol):
    """A stream of bytes that can be read once: a request's body, or an object's."""

    @property
    def size(self) -> int | None:
        """Bytes in all, or None when the sender did not say (chunked transfer encoding)."""
        ...

    async def fill(self, buffer: Buffer, start: int, stop: int) -> int:
        """Read into `buffer` from `start` to `stop`; fewer bytes only at the end. Returns how many.

        When the stream breaks: raises ClientGone for a request's body, StorageError for an object's.
        """
        ...

    async def read(self, limit: int) -> bytes:
        """The next `limit` bytes into Python, fewer at the end. For documents, never for blobs."""
        ...

    async def cancel(self) -> None:
        """Give up what was not read, so that its connection is free again. Does nothing after the end."""
        ...


class Body(Source, Protocol):
    """A request's body."""

    @property
    def taken(self) -> int:
        """Bytes of it that were read, or handed over to be read."""
        ...

    async def discard(self) -> None:
        """Read what is left and forget it, without a turn of the loop for each piece. Never raises."""
        ...


class Pipe(Protocol):
    """A stream of a known number of bytes: written on one side, given on the other to `put`, a part, or a client."""

    @property
    def content(self) -> Source:
        """The side to hand on."""
        ...

    async def write(self, content: "Content") -> None:
        """Pass bytes on; returns when they were taken, so the buffer may be filled again. Raises PipeBroken."""
        ...

    async def close(self) -> None:
        """All bytes were written. Too few or too many: the storage's call fails and nothing is stored."""
        ...

    async def abort(self) -> None:
        """Make the storage's call fail, and nothing is stored; a client sees its download break."""
        ...


class Digester(Protocol):
    """Computes a digest of bytes on the runtime's side."""

    async def update(self, content: "Content") -> None:
        """Take the next bytes; returns when the buffer may be filled again."""
        ...

    async def digest(self) -> Digest:
        """End it; the digest of all bytes."""
        ...

    async def abort(self) -> None:
        """Give up; `digest` will not be asked."""
        ...


class Content(Protocol):
    """Bytes in memory on their way: an opaque value of the runtime, which can be sent again."""


class Streams(Protocol):
    """Makes the handles above."""

    def buffer(self, size: int) -> Buffer:
        """An empty buffer of `size` bytes."""
        ...

    def content(self, data: bytes) -> Content:
        """Python's bytes as content, for a pipe."""
        ...

    def pipe(self, size: int) -> Pipe:
        """A pipe for exactly `size` bytes."""
        ...

    def digester(self, algorithm: str) -> Digester:
        """A digester for an algorithm of `registry.spec.names.ALGORITHMS`."""
        ...


@dataclass(frozen=True, slots=True)
class StoredBody:
    """An object with its bytes, which must be read to the end or cancelled."""

    object: StoredObject
    body: Source


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is stored beside the bytes. The metadata's keys and values have at most 2,048 bytes together."""

    content_type: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of a listing. A page may be short without being the last one: only `cursor` tells."""

    objects: Sequence[StoredObject]
    prefixes: Sequence[str]  # common prefixes up to the delimiter
    cursor: str | None  # where the next page begins; None on the last one


@dataclass(frozen=True, slots=True)
class MultipartUpload:
    """A multipart upload under way."""

    key: str
    upload_id: str


NO_ATTRIBUTES = Attributes()


class Storage(Protocol):
    """The bucket. Every method is one R2 call; all may raise StorageError."""

    async def head(self, key: str) -> StoredObject | None:
        """What is known of an object, or None."""
        ...

    async def get(self, key: str, byte_range: ByteRange | None = None) -> StoredBody | None:
        """An object with its bytes, or None."""
        ...

    async def put(
        self,
        key: str,
        content: bytes | Source | Content,
        attributes: Attributes = NO_ATTRIBUTES,
        *,
        checksum: Digest | None = None,
        only_if: "str | NotAfter | None" = None,
    ) -> StoredObject | None:
        """Store an object, whole or not at all; a Source must have a size and not be read yet.

        `checksum`: R2 computes it and raises ChecksumMismatch when the bytes differ. `only_if`: ABSENT, the etag
        the object must have, or until when it was put; the answer is None when that does not hold.
        """
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete up to MAX_DELETE_KEYS objects; those that are not there are no error."""
        ...

    async def list(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        delimiter: str | None = None,
        cursor: str | None = None,
        limit: int = MAX_LIST_KEYS,
        with_metadata: bool = False,
    ) -> Listing:
        """A page of the objects below `prefix`, in the order of their keys (UTF-8).

        `with_metadata`: with content type and metadata, which makes pages shorter.
        """
        ...

    async def create_upload(self, key: str, attributes: Attributes = NO_ATTRIBUTES) -> MultipartUpload:
        """Begin a multipart upload."""
        ...

    async def upload_part(self, upload: MultipartUpload, number: int, content: Content | Source) -> str:
        """Store part `number` (from 1), replacing an earlier one of that number; returns its etag."""
        ...

    async def complete_upload(self, upload: MultipartUpload, etags: Sequence[str]) -> StoredObject:
        """Join the parts 1, 2, ... with these etags into the object, replacing what was there.

        Raises UploadGone or PartChanged.
        """
        ...

    async def abort_upload(self, upload: MultipartUpload) -> None:
        """Drop a multipart upload and its parts; one that is gone is no error."""
        ...


@dataclass(frozen=True, slots=True)
class NotAfter:
    """`only_if` of `put`: what lies there was put by then, or is gone.

    Equal bytes have equal etags: this tells a second push of the same bytes from the first.
    """

    uploaded: float  # seconds since the epoch, as a StoredObject has it: milliseconds


ABSENT = "*"
"""`only_if` of `put`: create the object, never replace one."""
