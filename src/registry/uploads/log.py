"""The log of an upload session. It is append-only, with an entry (an object) for each chunk.

Each entry has the whole state of the session. An entry is never replaced: when two chunks start at the same offset, one
is written and the other refused. The bytes of an entry are::

    header    the `State` before the piece, as JSON; the metadata has its length
    piece     the chunk's last bytes, which did not fill a part
    digest    the sha256 of all bytes so far, in hex; only in the entry that starts at offset 0

The digest comes last, because a chunk of known length streams into the entry while it arrives.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace

from registry.ports.platform import Platform
from registry.ports.storage import (
    ABSENT,
    MAX_DELETE_KEYS,
    Attributes,
    Digester,
    Listing,
    Pipe,
    Source,
    StorageError,
    StoredObject,
)
from registry.spec.errors import Problem, RegistryError
from registry.spec.names import ALGORITHMS, Digest, RepositoryName
from registry.spec.ranges import ByteRange
from registry.storage import keys
from registry.storage.transfer import Span, through_pipe

_HEADER_LENGTH = "header"  # metadata key: the length of the header in bytes
_NONCE = "nonce"  # metadata key: tells two entries with equal bytes apart
# The algorithm that clients use by default. It is computed while bytes arrive.
ALGORITHM = "sha256"
_DIGEST_LENGTH = ALGORITHMS[ALGORITHM]


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes in the log: `size` bytes at `position` within the entry that starts at offset `entry`."""

    entry: int
    position: int
    size: int


@dataclass(frozen=True, slots=True)
class State:
    """The stored bytes of an upload session: whole parts in a multipart upload, then pieces in the log."""

    offset: int = 0  # bytes stored
    entries: tuple[int, ...] = ()  # the start offset of each log entry; the last entry has this state
    data_id: str = ""  # the data object of the multipart upload; empty until a part is filled
    upload_id: str = ""
    part_size: int = 0  # bytes of every part
    etags: tuple[str, ...] = ()
    tail: tuple[Piece, ...] = ()  # the bytes after the last whole part

    @property
    def tail_size(self) -> int:
        """Bytes after the last whole part."""
        return self.offset - len(self.etags) * self.part_size

    @property
    def entry(self) -> int | None:
        """The start offset of the entry that has this state; None before the first entry."""
        return self.entries[-1] if self.entries else None

    def with_part(self, etag: str) -> "State":
        """Return the state after one more part, which has the tail and the bytes that filled it."""
        etags = (*self.etags, etag)
        return replace(self, offset=len(etags) * self.part_size, etags=etags, tail=())

    def with_entry(self, start: int) -> "State":
        """Return the state for the header of a new entry, for a chunk that began at `start`."""
        return replace(self, entries=(*self.entries, start))

    def without_tail(self) -> "State":
        """Return the state before the tail, for an entry whose piece begins with the tail's bytes."""
        return replace(self, offset=self.offset - self.tail_size, tail=())

    def with_piece(self, position: int, size: int) -> "State":
        """Return the state after `size` more bytes, which are at `position` in the state's last entry."""
        if size == 0:
            return self
        piece = Piece(self.entries[-1], position, size)
        return replace(self, offset=self.offset + size, tail=(*self.tail, piece))


class OutOfDate(Exception):
    """The client continued from an offset that is no longer the end of the session."""


def gone() -> RegistryError:
    """Return BLOB_UPLOAD_UNKNOWN for a session whose log or multipart upload no longer exists."""
    return RegistryError(Problem.UPLOAD_UNKNOWN, "this upload session was cancelled or closed: start a new one")


def _encode(state: State) -> bytes:
    return json.dumps(asdict(state), separators=(",", ":")).encode()


def _decode(header: bytes) -> State:
    value = json.loads(header)
    for key in ("entries", "etags"):
        value[key] = tuple(value[key])
    value["tail"] = tuple(Piece(**piece) for piece in value["tail"])
    return State(**value)


@dataclass(frozen=True, slots=True)
class Entry:
    """An open entry: the state after its piece, and a source positioned at the beginning of the piece."""

    state: State
    body: Source

    async def digest_behind_piece(self) -> Digest | None:
        """Read the digest of all bytes so far, behind the piece in `body`; None unless the session has one entry."""
        if self.state.entries != (0,):
            return None
        return Digest(ALGORITHM, (await self.body.read(_DIGEST_LENGTH)).decode("ascii"))


class UploadLog:
    """The log of one upload session."""

    def __init__(self, platform: Platform, name: RepositoryName, session: str) -> None:
        self._platform = platform
        self._name = name
        self._session = session

    def _key(self, start: int) -> str:
        return keys.log_entry(self._name, self._session, start)

    async def read(self, start: int) -> Entry | None:
        """Open the entry that starts at offset `start`; None when there is none."""
        stored = await self._platform.storage.get(self._key(start))
        if stored is None:
            return None
        try:
            header_length = int(stored.object.metadata[_HEADER_LENGTH])
            state = _decode(await stored.body.read(header_length))
        except (KeyError, ValueError, TypeError):
            await stored.body.cancel()
            raise StorageError("an entry of an upload session's log is damaged") from None
        trailer = _DIGEST_LENGTH if start == 0 else 0
        piece_size = stored.object.size - header_length - trailer
        return Entry(state.with_piece(header_length, piece_size), stored.body)

    async def latest(self) -> Entry | None:
        """Open the newest entry, found by listing, for a location that does not name it; None when there is none."""
        prefix = keys.log(self._name, self._session)
        start = None
        page = Listing((), (), "")
        while page.cursor is not None:
            page = await self._platform.storage.list(prefix, cursor=page.cursor or None)
            for found in page.objects:
                entry_start = keys.log_entry_start(prefix, found.key)
                # Other keys belong to a repository whose name begins with our prefix.
                start = start if entry_start is None else entry_start
        return None if start is None else await self.read(start)

    async def is_newest(self, state: State) -> bool:
        """Whether no entry follows `state`. The next entry would start at the state's offset."""
        return await self._platform.storage.head(self._key(state.offset)) is None

    async def append(
        self, state: State, size: int, write_piece: Callable[[Pipe], Awaitable[None]], digester: Digester | None = None
    ) -> State:
        """Write the last entry of `state.entries`. `state` is the state before its piece of `size` bytes.

        `digester` is given for the entry that starts at offset 0, and only for it. It has hashed all bytes before the
        piece, and hashes the piece while it is written. Returns the state after the piece. Raises OutOfDate when
        another chunk was written first.
        """
        content_of = self._platform.streams.content
        header = _encode(state)
        attributes = Attributes(metadata={_HEADER_LENGTH: str(len(header)), _NONCE: self._platform.random_hex(8)})
        key = self._key(state.entries[-1])

        async def write(pipe: Pipe) -> None:
            await pipe.write(content_of(header))
            await write_piece(pipe)
            if digester is not None:
                await pipe.write(content_of((await digester.digest()).hex.encode()))

        async def store(content: Source) -> StoredObject | None:
            return await self._platform.storage.put(key, content, attributes, only_if=ABSENT)

        length = len(header) + size + (_DIGEST_LENGTH if digester else 0)
        stored = await through_pipe(self._platform, length, write, store)
        if stored is None:
            raise OutOfDate
        return state.with_piece(len(header), size)

    async def piece(self, piece: Piece) -> Span:
        """Read the bytes of a piece from its entry."""
        stored = await self._platform.storage.get(self._key(piece.entry), ByteRange(piece.position, piece.size))
        if stored is None:
            raise gone()
        return Span(stored.body, piece.size)

    async def forget(self, state: State) -> None:
        """Delete all entries."""
        names = [self._key(start) for start in state.entries]
        for at in range(0, len(names), MAX_DELETE_KEYS):
            await self._platform.storage.delete(names[at : at + MAX_DELETE_KEYS])
