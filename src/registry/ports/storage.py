"""The bucket as the core sees it: a narrow port over R2, and the streams of bytes that go through it.

`registry.cloudflare` implements it on the real binding, `tests.fakes` in memory; both pass the suite in
`tests.contract`. The bytes of blobs stay on the runtime's side (JavaScript): the core holds only the handles below and
directs the bytes from one to another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypedDict, Unpack, runtime_checkable

from registry.spec.names import Digest
from registry.spec.ranges import ByteRange

# Limits of R2 (developers.cloudflare.com/r2/platform/limits, and docs/adr/0009).
MAX_PUT_SIZE = 5_363_466_240  # bytes of one put: 4.995 GiB
MIN_PART_SIZE = 5 * 1024 * 1024  # bytes of every part but the last
MAX_PARTS = 10_000
MAX_DELETE_KEYS = 1_000  # keys of one delete call
# R2 allows a request 6 open connections (docs/adr/0009); one is left for calls that run at the same time.
IN_FLIGHT = 5
MAX_LIST_KEYS = 1_000  # keys of one page


class StorageError(Exception):
    """The storage refused a call or failed. Callers distinguish the subclasses."""


class ChecksumMismatch(StorageError):
    """The bytes of a `put` do not match its checksum; nothing was stored (R2 10037)."""


class UploadGone(StorageError):
    """The multipart upload was completed or aborted, or never existed (R2 10024)."""


class PartChanged(StorageError):
    """`complete_upload` named a part that was replaced or never arrived (R2 10025)."""


class StorageBusy(StorageError):
    """R2 refuses a call for its rate: more than one write a second to a key, or too many calls (R2 10058, 429)."""


class PipeBroken(StorageError):
    """The reader of a pipe stopped: the storage failed, or the client closed the connection."""


class ClientGone(Exception):
    """A stream broke off while it was read or passed on: the client closed the connection."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object's properties, without its bytes."""

    key: str
    size: int  # bytes
    etag: str
    uploaded: float  # seconds since the epoch
    content_type: str | None
    metadata: Mapping[str, str]
    checksum: Digest | None  # verified by R2 at `put`


class Buffer(Protocol):
    """A block of memory of a fixed size in the runtime, filled from sources."""

    @property
    def size(self) -> int:
        """Capacity in bytes."""
        ...

    @property
    def is_whole(self) -> bool:
        """Whether the buffer still has its memory: a cancelled read does not give it back."""
        ...

    def copy(self, start: int, content: "Content") -> None:
        """Copy `content` into the buffer at `start`."""
        ...

    def read(self, stop: int) -> bytes:
        """Copy the bytes before `stop` into Python. For documents, never for blobs."""
        ...

    def slice(self, start: int, stop: int) -> "Content":
        """The bytes from `start` to `stop` (exclusive), not copied: do not fill the buffer while they are in use."""
        ...


@runtime_checkable
class Source(Protocol):
    """A stream of bytes that can be read once: a request's body, or an object's."""

    @property
    def size(self) -> int | None:
        """Bytes in all; None when the sender did not announce it (chunked transfer encoding)."""
        ...

    async def fill(self, buffer: Buffer, start: int, stop: int) -> int:
        """Read into `buffer` from `start` to `stop`; fewer bytes only at the end. Returns how many.

        When the stream breaks: raises ClientGone for a request's body, StorageError for an object's.
        """
        ...

    async def read(self, limit: int) -> bytes:
        """Read the next `limit` bytes into Python, fewer at the end. For documents, never for blobs."""
        ...

    async def cancel(self) -> None:
        """Discard the unread rest, which frees the connection. Does nothing after the end."""
        ...


class Body(Source, Protocol):
    """A request's body."""

    @property
    def taken(self) -> int:
        """Bytes that were read, or handed over to be read."""
        ...

    async def discard(self) -> None:
        """Read and discard the rest, without a turn of the event loop for each piece. Never raises."""
        ...


class Pipe(Protocol):
    """A stream of a known number of bytes: one side is written, the other goes to `put`, a part, or a client."""

    @property
    def content(self) -> Source:
        """The readable side."""
        ...

    async def write(self, content: "Content") -> None:
        """Write bytes; returns when the reader took them and the buffer may be filled again. Raises PipeBroken."""
        ...

    async def close(self) -> None:
        """End the stream. After too few or too many bytes the storage's call fails and nothing is stored."""
        ...

    async def abort(self) -> None:
        """Break the stream: the storage's call fails and nothing is stored; a client's download breaks off."""
        ...


class Digester(Protocol):
    """Computes a digest of bytes on the runtime's side."""

    async def update(self, content: "Content") -> None:
        """Add the next bytes; returns when the buffer may be filled again."""
        ...

    async def digest(self) -> Digest:
        """Finish, and return the digest of all bytes."""
        ...

    async def abort(self) -> None:
        """Discard the computation; `digest` will not be called."""
        ...


class Content(Protocol):
    """Bytes in memory to be sent: an opaque value of the runtime, which can be sent more than once."""


class Streams(Protocol):
    """Makes the handles above."""

    def buffer(self, size: int) -> Buffer:
        """An empty buffer of `size` bytes."""
        ...

    def content(self, data: bytes) -> Content:
        """Convert Python's bytes into content for a pipe."""
        ...

    def pipe(self, size: int) -> Pipe:
        """A pipe for exactly `size` bytes."""
        ...

    def digester(self, algorithm: str) -> Digester:
        """A digester for an algorithm of `registry.spec.names.ALGORITHMS`."""
        ...


@dataclass(frozen=True, slots=True)
class StoredBody:
    """An object with its bytes. The body must be read to the end or cancelled."""

    object: StoredObject
    body: Source


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is stored beside an object's bytes. Keys and values of the metadata have at most 2,048 bytes in all."""

    content_type: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of a listing. A short page is not always the last one: only `cursor` shows that."""

    objects: Sequence[StoredObject]
    prefixes: Sequence[str]  # common prefixes up to the delimiter
    cursor: str | None  # where the next page begins; None on the last one


@dataclass(frozen=True, slots=True)
class MultipartUpload:
    """A multipart upload under way."""

    key: str
    upload_id: str


NO_ATTRIBUTES = Attributes()


class PutOptions(TypedDict, total=False):
    """Options of a put. An absent one and None are the same."""

    checksum: Digest | None  # R2 verifies it
    only_if: "str | NotAfter | None"  # a condition on the present object: ABSENT, its etag, or NotAfter


class ListOptions(TypedDict, total=False):
    """Options of a listing. An absent one and None are the same."""

    start_after: str | None  # a key; the page begins behind it
    delimiter: str | None  # keys that share a prefix up to it are one entry of `prefixes`
    cursor: str | None  # of the page before
    limit: int  # objects and prefixes, at most and by default MAX_LIST_KEYS
    with_metadata: bool  # includes content type and metadata, which makes pages shorter


class Storage(Protocol):
    """The bucket. Every method is one R2 call; all may raise StorageError."""

    async def head(self, key: str) -> StoredObject | None:
        """An object's properties; None if it does not exist."""
        ...

    async def get(self, key: str, byte_range: ByteRange | None = None) -> StoredBody | None:
        """An object with its bytes; None if it does not exist."""
        ...

    async def put(
        self,
        key: str,
        content: bytes | Source | Content,
        attributes: Attributes = NO_ATTRIBUTES,
        **options: Unpack[PutOptions],
    ) -> StoredObject | None:
        """Store an object, whole or not at all. A Source must have a size and must not have been read yet.

        Returns None when the condition does not hold. Raises ChecksumMismatch when the bytes differ from `checksum`.
        """
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete up to MAX_DELETE_KEYS objects. A missing object is no error."""
        ...

    async def list(self, prefix: str, **options: Unpack[ListOptions]) -> Listing:
        """A page of the objects below `prefix`, in the order of their keys (UTF-8)."""
        ...

    async def create_upload(self, key: str, attributes: Attributes = NO_ATTRIBUTES) -> MultipartUpload:
        """Begin a multipart upload."""
        ...

    async def upload_part(self, upload: MultipartUpload, number: int, content: Content | Source) -> str:
        """Store part `number` (from 1) and return its etag. Replaces an earlier part with that number."""
        ...

    async def complete_upload(self, upload: MultipartUpload, etags: Sequence[str]) -> StoredObject:
        """Join the parts 1, 2, ... with these etags into the object. Replaces an existing object.

        Raises UploadGone or PartChanged.
        """
        ...

    async def abort_upload(self, upload: MultipartUpload) -> None:
        """Drop a multipart upload and its parts. A missing upload is no error."""
        ...


@dataclass(frozen=True, slots=True)
class NotAfter:
    """`only_if` of `put`: the stored object was put at this time or before, or there is none.

    Equal bytes have equal etags; the time distinguishes a second push of the same bytes from the first.
    """

    uploaded: float  # seconds since the epoch, to the millisecond as in a StoredObject


ABSENT = "*"
"""`only_if` of `put`: create the object, but never replace one."""
