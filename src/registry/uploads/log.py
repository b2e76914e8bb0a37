"""The log of an upload session: append-only, one object per chunk, each with the whole state.

An entry is created, never replaced: of two chunks sent from one offset, one is written and the other refused. Its
bytes are::

    header    JSON of the `State` before the piece; its length is in the metadata
    piece     the chunk's bytes that filled no part
    digest    sha256 of everything so far in hex, only in the entry that starts at offset 0

The digest comes last because a chunk of known length is passed on while it arrives.
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

_HEADER_LENGTH = "header"  # metadata: bytes of the header
_NONCE = "nonce"  # metadata: equal entries get different objects
# The algorithm clients use unless they say otherwise, hashed while bytes arrive.
ALGORITHM = "sha256"
_DIGEST_LENGTH = ALGORITHMS[ALGORITHM]


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes in the log: `size` bytes at `position` of the entry that starts at `entry`."""

    entry: int
    position: int
    size: int


@dataclass(frozen=True, slots=True)
class State:
    """Where an upload stands: whole parts in a multipart upload, then pieces in the log."""

    offset: int = 0  # bytes stored
    entries: tuple[int, ...] = ()  # where each entry of the log starts; the last one holds this state
    data_id: str = ""  # the multipart upload's object; empty while no part was filled
    upload_id: str = ""
    part_size: int = 0  # bytes of every part
    etags: tuple[str, ...] = ()
    tail: tuple[Piece, ...] = ()  # the bytes after the last part

    @property
    def tail_size(self) -> int:
        """Bytes after the last whole part."""
        return self.offset - len(self.etags) * self.part_size

    @property
    def entry(self) -> int | None:
        """The entry that holds this state, None before the first."""
        return self.entries[-1] if self.entries else None

    def with_part(self, etag: str) -> "State":
        """With a part that holds the tail and the bytes that filled it up."""
        etags = (*self.etags, etag)
        return replace(self, offset=len(etags) * self.part_size, etags=etags, tail=())

    def with_entry(self, start: int) -> "State":
        """As the header of a new entry, for a chunk that began at `start`."""
        return replace(self, entries=(*self.entries, start))

    def without_tail(self) -> "State":
        """Before the tail: for an entry whose piece begins with it."""
        return replace(self, offset=self.offset - self.tail_size, tail=())

    def with_piece(self, position: int, size: int) -> "State":
        """With `size` more bytes, which lie at `position` of this state's own entry."""
        if size == 0:
            return self
        piece = Piece(self.entries[-1], position, size)
        return replace(self, offset=self.offset + size, tail=(*self.tail, piece))


class OutOfDate(Exception):
    """The client continued from where the session no longer stands."""


def gone() -> RegistryError:
    """BLOB_UPLOAD_UNKNOWN for a session whose log, or multipart upload, is no longer there."""
    return RegistryError(Problem.UPLOAD_UNKNOWN, "this upload session was cancelled or closed")


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
    """An entry that is open: the state with its piece, and a source that stands at the beginning of that piece."""

    state: State
    body: Source

    async def digest_behind_piece(self) -> Digest | None:
        """The digest of everything so far when one chunk carried it all; `body` must stand behind the piece."""
        if self.state.entries != (0,):
            return None
        return Digest(ALGORITHM, (await self.body.read(_DIGEST_LENGTH)).decode("ascii"))


class UploadLog:
    """The log of one session."""

    def __init__(self, platform: Platform, name: RepositoryName, session: str) -> None:
        self._platform = platform
        self._name = name
        self._session = session

    def _key(self, start: int) -> str:
        return keys.log_entry(self._name, self._session, start)

    async def read(self, start: int) -> Entry | None:
        """The entry that starts at `start`."""
        stored = await self._platform.storage.get(self._key(start))
        if stored is None:
            return None
        try:
            header_length = int(stored.object.metadata[_HEADER_LENGTH])
            state = _decode(await stored.body.read(header_length))
        except (KeyError, ValueError, TypeError):
            await stored.body.cancel()
            raise StorageError("an entry of an upload log is damaged") from None
        trailer = _DIGEST_LENGTH if start == 0 else 0
        piece_size = stored.object.size - header_length - trailer
        return Entry(state.with_piece(header_length, piece_size), stored.body)

    async def latest(self) -> Entry | None:
        """The newest entry, found by listing; for when no location names it."""
        prefix = keys.log(self._name, self._session)
        start = None
        page = Listing((), (), "")
        while page.cursor is not None:
            page = await self._platform.storage.list(prefix, cursor=page.cursor or None)
            for found in page.objects:
                entry_start = keys.log_entry_start(prefix, found.key)
                # A repository may be named like our prefix: its keys are none of ours.
                start = start if entry_start is None else entry_start
        return None if start is None else await self.read(start)

    async def is_newest(self, state: State) -> bool:
        """Whether no entry follows `state`: the next one would start at its offset."""
        return await self._platform.storage.head(self._key(state.offset)) is None

    async def append(
        self, state: State, size: int, write_piece: Callable[[Pipe], Awaitable[None]], digester: Digester | None = None
    ) -> State:
        """Write the entry named last in `state.entries`: `state` is what precedes its piece of `size` bytes.

        `digester` has seen everything before the piece, and sees the piece while it is written; it goes with the entry
        that starts at 0, and with no other. Returns the state with the piece; raises OutOfDate when another chunk was
        written first.
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
        """The bytes of a piece, read again."""
        stored = await self._platform.storage.get(self._key(piece.entry), ByteRange(piece.position, piece.size))
        if stored is None:
            raise gone()
        return Span(stored.body, piece.size)

    async def forget(self, state: State) -> None:
        """Delete every entry."""
        names = [self._key(start) for start in state.entries]
        for at in range(0, len(names), MAX_DELETE_KEYS):
            await self._platform.storage.delete(names[at : at + MAX_DELETE_KEYS])
