"""A storage that injects faults, and a client that retries as the specification says."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar, Unpack

from registry.ports.storage import (
    NO_ATTRIBUTES,
    Attributes,
    Content,
    Listing,
    ListOptions,
    MultipartUpload,
    PutOptions,
    Source,
    StorageBusy,
    StorageError,
    StoredBody,
    StoredObject,
)
from registry.spec.ranges import ByteRange
from tests.fakes.client import Answer, FakeRegistry, digest_of, with_query
from tests.fakes.r2 import FakeR2

T = TypeVar("T")


class Fault(Enum):
    """The ways in which a call fails."""

    BEFORE = "before it took effect"
    AFTER = "after it took effect, with the reply lost"
    BUSY = "with 429"


@dataclass(slots=True)
class FaultyStorage:
    """Passes calls on to the bucket, but fails call number `at` and, with `for_good`, all later ones."""

    bucket: FakeR2
    at: int = -1
    fault: Fault = Fault.BEFORE
    for_good: bool = False
    calls: int = 0
    injected: int = field(default=0)

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        number, self.calls = self.calls, self.calls + 1
        if self.at < 0 or number < self.at or (number > self.at and not self.for_good):
            return await call()
        self.injected += 1
        if self.fault is Fault.BUSY:
            raise StorageBusy("on purpose (10058)")
        if self.fault is Fault.AFTER:
            result = await call()
            if isinstance(result, StoredBody):
                await result.body.cancel()
        raise StorageError(f"on purpose, {self.fault.value}")

    def heal(self) -> None:
        """Stop injecting faults."""
        self.at = -1

    async def head(self, key: str) -> StoredObject | None:
        return await self._call(lambda: self.bucket.head(key))

    async def get(self, key: str, byte_range: ByteRange | None = None) -> StoredBody | None:
        return await self._call(lambda: self.bucket.get(key, byte_range))

    async def put(
        self,
        key: str,
        content: bytes | Source | Content,
        attributes: Attributes = NO_ATTRIBUTES,
        **options: Unpack[PutOptions],
    ) -> StoredObject | None:
        return await self._call(lambda: self.bucket.put(key, content, attributes, **options))

    async def delete(self, keys: Sequence[str]) -> None:
        await self._call(lambda: self.bucket.delete(keys))

    async def list(self, prefix: str, **options: Unpack[ListOptions]) -> Listing:
        return await self._call(lambda: self.bucket.list(prefix, **options))

    async def create_upload(self, key: str, attributes: Attributes = NO_ATTRIBUTES) -> MultipartUpload:
        return await self._call(lambda: self.bucket.create_upload(key, attributes))

    async def upload_part(self, upload: MultipartUpload, number: int, content: Content | Source) -> str:
        return await self._call(lambda: self.bucket.upload_part(upload, number, content))

    async def complete_upload(self, upload: MultipartUpload, etags: Sequence[str]) -> StoredObject:
        return await self._call(lambda: self.bucket.complete_upload(upload, etags))

    async def abort_upload(self, upload: MultipartUpload) -> None:
        await self._call(lambda: self.bucket.abort_upload(upload))


# The statuses that the registry may answer while the bucket fails.
_HONEST = {200, 201, 202, 204, 404, 416, 429, 503}


class PatientClient:
    """Pushes as the specification says: after an error it asks for the session's offset and resumes, or starts again.

    `push` returns whether the blob was acknowledged within `attempts`.
    """

    def __init__(self, registry: FakeRegistry, name: str, attempts: int = 12) -> None:
        self._registry = registry
        self._name = name
        self._attempts = attempts

    async def call(self, method: str, url: str, body: Any = b"") -> Answer:
        """Send a request; a status that the registry must not answer fails the test."""
        answer = await self._registry.call(method, url, body, budget=200)
        assert answer.status in _HONEST, (method, url, answer)
        assert answer.status not in (429, 503) or "Retry-After" in answer.headers
        return answer

    async def push(self, data: bytes, chunks: Sequence[int]) -> bool:
        """Push a blob. `chunks` are sizes in bytes, negative for no Content-Length; empty for all bytes in the PUT."""
        for _ in range(self._attempts):
            started = await self.call("POST", f"/v2/{self._name}/blobs/uploads/")
            if started.status == 202 and await self._session(started.location, data, chunks):
                return True
            if (await self.call("HEAD", f"/v2/{self._name}/blobs/{digest_of(data)}")).status == 200:
                return True
        return False

    async def _session(self, location: str, data: bytes, chunks: Sequence[int]) -> bool:
        offset, sizes = 0, list(chunks)
        while chunks and offset < len(data):
            size = sizes.pop(0) if sizes else len(data) - offset
            chunk = data[offset : offset + abs(size)]
            answer = await self.call("PATCH", location, [chunk] if size < 0 else chunk)
            for _ in range(self._attempts):
                if answer.status not in (429, 503):
                    break
                answer = await self.call("GET", location)
            if answer.status not in (202, 204, 416):
                return False
            location, last = answer.location, int(answer.headers["Range"].partition("-")[2])
            offset = last + 1 if last else 0
        for _ in range(self._attempts):
            url = with_query(location, digest=digest_of(data))
            closed = await self.call("PUT", url, b"" if chunks else data)
            if closed.status == 201:
                return True
            if closed.status not in (429, 503):
                return False
        return False
