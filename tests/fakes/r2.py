"""An in-memory R2, at least as strict as R2 in production (docs/adr/0009); it passes `tests.contract`."""

import asyncio
import hashlib
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from registry.ports.storage import (
    ABSENT,
    MAX_DELETE_KEYS,
    MAX_LIST_KEYS,
    MAX_PARTS,
    MAX_PUT_SIZE,
    MIN_PART_SIZE,
    NO_ATTRIBUTES,
    Attributes,
    ChecksumMismatch,
    Content,
    Listing,
    MultipartUpload,
    NotAfter,
    PartChanged,
    Source,
    StorageBusy,
    StorageError,
    StoredBody,
    StoredObject,
    UploadGone,
)
from registry.spec.names import Digest
from registry.spec.ranges import ByteRange
from tests.fakes.streams import FakeContent, FakeSource, PipeContent

MAX_KEY_BYTES = 1_024
MAX_METADATA_BYTES = 2_048  # Miniflare's limit; production's is 8,192, and stored objects must work in both
WRITE_INTERVAL = 1.0  # seconds between two writes to one key
UNFINISHED_UPLOAD_SECONDS = 7 * 24 * 3600
PAGE_WITH_METADATA = 100  # Miniflare's; production's pages are short, too, limited by bytes
MAX_OPEN_BODIES = 6  # the connections that one request may have
CHUNK = 64 * 1024  # bytes of a body that arrive at once


class _Objects(dict[str, "_Object"]):
    """Objects by key, with a cache of the ordered keys that each added or removed key invalidates."""

    def __init__(self, objects: Mapping[str, "_Object"]) -> None:
        super().__init__(objects)
        self._in_order: list[str] | None = None

    @property
    def in_order(self) -> list[str]:
        """All keys in order. R2 orders them by UTF-8, which is the order of code points."""
        if self._in_order is None or len(self._in_order) != len(self):
            self._in_order = sorted(self)
        return self._in_order

    def __setitem__(self, key: str, value: "_Object") -> None:
        if key not in self:
            self._in_order = None
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        self._in_order = None
        super().__delitem__(key)

    def pop(self, key: str, default: Any = None) -> Any:
        self._in_order = None
        return super().pop(key, default)

    def update(self, *arguments: Any, **more: Any) -> None:
        self._in_order = None
        super().update(*arguments, **more)


@dataclass(slots=True)
class _Object:
    data: bytes
    etag: str
    uploaded: float
    attributes: Attributes
    checksum: Digest | None


@dataclass(slots=True)
class _Upload:
    key: str
    attributes: Attributes
    created: float
    parts: dict[int, tuple[str, bytes]] = field(default_factory=dict)


@dataclass(slots=True)
class Usage:
    """R2 calls by price class, and bytes."""

    class_a: int = 0
    class_b: int = 0
    free: int = 0
    written: int = 0
    read: int = 0


def _holds(only_if: str | NotAfter | None, found: _Object | None) -> bool:
    if only_if is None:
        return True
    if found is None:
        return only_if == ABSENT or isinstance(only_if, NotAfter)
    return found.uploaded <= only_if.uploaded if isinstance(only_if, NotAfter) else found.etag == only_if


class FakeR2:
    """The bucket. Tests may read `objects` and `usage`, and set `fail` to raise errors from calls."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._objects = _Objects({})
        self.uploads: dict[str, _Upload] = {}
        self.usage = Usage()
        self.open_bodies = 0
        self.open_limit = MAX_OPEN_BODIES  # for all concurrent requests together
        self.fail: Callable[[str, str], None] = lambda call, key: None
        self.page, self.page_with_metadata = MAX_LIST_KEYS, PAGE_WITH_METADATA
        self.delay: Callable[[], int] = lambda: 1  # turns of the loop that a call takes
        self._writes: dict[str, float] = {}
        self._serial = 0

    # ---------------------------------------------------------------- helpers of tests
    @property
    def objects(self) -> dict[str, _Object]:
        """The objects by key."""
        return self._objects

    @objects.setter
    def objects(self, objects: Mapping[str, _Object]) -> None:
        self._objects = _Objects(objects)

    def keys(self, prefix: str = "") -> list[str]:
        """The keys with a prefix, in order."""
        return [key for key in self._objects.in_order if key.startswith(prefix)]

    def data(self, key: str) -> bytes:
        """An object's bytes."""
        return self.objects[key].data

    def seed(self, key: str, data: bytes, attributes: Attributes, checksum: Digest | None) -> None:
        """Store an object without counting a call."""
        self.objects[key] = _Object(data, hashlib.md5(data).hexdigest(), self._now(), attributes, checksum)

    def reset(self) -> None:
        """Reset the counts."""
        self.usage = Usage()

    # ---------------------------------------------------------------- the port
    async def head(self, key: str) -> StoredObject | None:
        await self._call("head", key)
        self.usage.class_b += 1
        found = self.objects.get(key)
        return None if found is None else self._describe(key, found)

    async def get(self, key: str, byte_range: ByteRange | None = None) -> StoredBody | None:
        await self._call("get", key)
        self.usage.class_b += 1
        found = self.objects.get(key)
        if found is None:
            return None
        data = found.data
        if byte_range is not None:
            if byte_range.offset >= len(data) or byte_range.length == 0:
                raise StorageError("get: The requested range is not satisfiable (10039)")
            stop = None if byte_range.length is None else byte_range.offset + byte_range.length
            data = data[byte_range.offset : stop]
        self.usage.read += len(data)
        self.open_bodies += 1
        assert self.open_bodies <= self.open_limit, "more open bodies than a request has connections"
        chunks = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
        return StoredBody(self._describe(key, found), FakeSource(chunks, len(data), self._body_closed))

    async def put(
        self,
        key: str,
        content: bytes | Source | Content,
        attributes: Attributes = NO_ATTRIBUTES,
        *,
        checksum: Digest | None = None,
        only_if: str | NotAfter | None = None,
    ) -> StoredObject | None:
        await self._call("put", key)
        self.usage.class_a += 1
        self._check_attributes(attributes)
        data = await self._bytes(content)
        if len(data) > MAX_PUT_SIZE:
            raise StorageError("put: Your proposed upload exceeds the maximum allowed object size (10009)")
        found = self.objects.get(key)
        if not _holds(only_if, found):
            return None
        if checksum is not None and hashlib.new(checksum.algorithm, data).hexdigest() != checksum.hex:
            raise ChecksumMismatch("put: The checksum you specified did not match what we received (10037)")
        self._write(key)
        self.usage.written += len(data)
        self.objects[key] = _Object(data, hashlib.md5(data).hexdigest(), self._now(), attributes, checksum)
        return self._describe(key, self.objects[key])

    async def delete(self, keys: Sequence[str]) -> None:
        if len(keys) > MAX_DELETE_KEYS:
            raise StorageError("delete: too many keys")
        for key in keys:
            await self._call("delete", key)
        self.usage.free += 1
        for key in keys:
            self.objects.pop(key, None)

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
        await self._call("list", prefix)
        self.usage.class_a += 1
        if not 1 <= limit <= MAX_LIST_KEYS:
            raise StorageError("list: MaxKeys must be between 1 and 1000 (10022)")
        room = min(limit, self.page, self.page_with_metadata if with_metadata else limit)
        after = max(cursor or "", start_after or "")
        objects: list[StoredObject] = []
        prefixes: list[str] = []
        in_order, last = self._objects.in_order, ""
        at = bisect_left(in_order, prefix) if after < prefix else bisect_right(in_order, after)
        while at < len(in_order) and in_order[at].startswith(prefix):
            if len(objects) + len(prefixes) == room:
                return Listing(objects, prefixes, last)
            key = in_order[at]
            end = -1 if delimiter is None else key.find(delimiter, len(prefix))
            if end >= 0:
                common = key[: end + len(delimiter or "")]
                at = bisect_left(in_order, common + chr(sys.maxunicode), at)
                prefixes.append(common)
                last = in_order[at - 1]  # the last key of the group, like Miniflare's cursor
            else:
                at += 1
                objects.append(self._describe(key, self.objects[key], with_metadata))
                last = key
        return Listing(objects, prefixes, None)

    async def create_upload(self, key: str, attributes: Attributes = NO_ATTRIBUTES) -> MultipartUpload:
        await self._call("create_upload", key)
        self.usage.class_a += 1
        self._check_attributes(attributes)
        upload_id = f"upload-{self._next()}"
        self.uploads[upload_id] = _Upload(key, attributes, self._now())
        return MultipartUpload(key, upload_id)

    async def upload_part(self, upload: MultipartUpload, number: int, content: Content | Source) -> str:
        await self._call("upload_part", upload.key)
        self.usage.class_a += 1
        if not 1 <= number <= MAX_PARTS:
            raise StorageError("uploadPart: Part number must be between 1 and 10000")
        data = await self._bytes(content)
        state = self._upload(upload)
        etag = f"part-{self._next()}"
        state.parts[number] = (etag, data)
        self.usage.written += len(data)
        return etag

    async def complete_upload(self, upload: MultipartUpload, etags: Sequence[str]) -> StoredObject:
        await self._call("complete_upload", upload.key)
        self.usage.class_a += 1
        state = self._upload(upload)
        parts: list[bytes] = []
        for number, etag in enumerate(etags, 1):
            stored = state.parts.get(number)
            if stored is None or stored[0] != etag:
                raise PartChanged("completeMultipartUpload: One or more parts could not be found (10025)")
            parts.append(stored[1])
        if not parts:
            raise StorageError("completeMultipartUpload: There are no parts")
        if any(len(part) < MIN_PART_SIZE for part in parts[:-1]):
            raise StorageError("completeMultipartUpload: Your proposed upload is smaller than the minimum (10011)")
        if len({len(part) for part in parts[:-1]}) > 1 or len(parts[-1]) > len(parts[0]):
            raise StorageError("completeMultipartUpload: All non-trailing parts must have the same length (10048)")
        self._write(upload.key)
        del self.uploads[upload.upload_id]
        digest = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()
        data = b"".join(parts)
        self.objects[upload.key] = _Object(data, f"{digest}-{len(parts)}", self._now(), state.attributes, None)
        return self._describe(upload.key, self.objects[upload.key])

    async def abort_upload(self, upload: MultipartUpload) -> None:
        await self._call("abort_upload", upload.key)
        self.usage.free += 1
        self.uploads.pop(upload.upload_id, None)

    # ---------------------------------------------------------------- rules
    async def _call(self, call: str, key: str) -> None:
        for _ in range(self.delay()):
            await asyncio.sleep(0)  # every call lets others run, as over a network
        if len(key.encode()) > MAX_KEY_BYTES:
            raise StorageError(f"{call}: Your key is too long (10020)")
        self.fail(call, key)

    def _check_attributes(self, attributes: Attributes) -> None:
        if sum(len(k.encode()) + len(v.encode()) for k, v in attributes.metadata.items()) > MAX_METADATA_BYTES:
            raise StorageError("put: Your metadata headers exceed the maximum allowed metadata size (10012)")

    def _write(self, key: str) -> None:
        now, before = self._now(), self._writes.get(key)
        if before is not None and now - before < WRITE_INTERVAL:
            raise StorageBusy("put: Reduce your concurrent request rate for the same object (10058)")
        self._writes[key] = now

    def _upload(self, upload: MultipartUpload) -> _Upload:
        state = self.uploads.get(upload.upload_id)
        if state is None or state.key != upload.key or self._now() - state.created > UNFINISHED_UPLOAD_SECONDS:
            raise UploadGone("The specified multipart upload does not exist (10024)")
        return state

    async def _bytes(self, content: bytes | Source | Content) -> bytes:
        if isinstance(content, bytes):
            return content
        if isinstance(content, PipeContent):
            return await content.collect()
        if isinstance(content, FakeContent):
            return bytes(content.data)
        assert isinstance(content, FakeSource)
        if content.size is None:
            raise TypeError("Provided readable stream must have a known length")
        assert not content.started, "a stream that was read cannot be handed over"
        data = bytearray()
        while chunk := await content.read(CHUNK):
            data += chunk
        if len(data) != content.size:
            raise StorageError("put: the body ended early")
        return bytes(data)

    def _describe(self, key: str, found: _Object, with_metadata: bool = True) -> StoredObject:
        attributes = found.attributes if with_metadata else NO_ATTRIBUTES
        return StoredObject(
            key,
            len(found.data),
            found.etag,
            found.uploaded,
            attributes.content_type,
            dict(attributes.metadata),
            found.checksum,
        )

    def _body_closed(self) -> None:
        self.open_bodies -= 1

    def _next(self) -> int:
        self._serial += 1
        return self._serial
