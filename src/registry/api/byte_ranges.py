"""Answers with several byte ranges of a blob (multipart/byteranges: RFC 9110, section 14.6).

Clients that already have the rest of a layer ask for them.
"""

from collections.abc import Sequence

from registry.content import blobs
from registry.ports.memory import Turns
from registry.ports.platform import ANSWER_SECONDS, COPY_BUFFER, Platform
from registry.ports.storage import ClientGone, Content, PipeBroken, StorageError
from registry.ports.tasks import within
from registry.spec.errors import RegistryError
from registry.spec.media_types import OCTETS
from registry.spec.ranges import ByteRange, content_range
from registry.telemetry.log import log


class ByteRanges:
    """The body of the answer, `length` bytes long. `run` writes it, with one R2 call for each range, one at a time."""

    def __init__(self, platform: Platform, blob: blobs.Blob, parts: Sequence[ByteRange]) -> None:
        self._platform = platform
        self._blob = blob
        boundary = platform.random_hex(16)
        head = f"\r\n--{boundary}\r\nContent-Type: {OCTETS}\r\nContent-Range: "
        self._parts = [(f"{head}{content_range(part, blob.size)}\r\n\r\n".encode(), part) for part in parts]
        self._end = f"\r\n--{boundary}--\r\n".encode()
        self.content_type = f"multipart/byteranges; boundary={boundary}"
        self.length = sum(len(head) + (part.length or 0) for head, part in self._parts) + len(self._end)
        self._pipe = platform.streams.pipe(self.length)
        self.content = self._pipe.content

    async def run(self) -> None:
        """Write the body. An error is logged and not raised; the client's download then breaks off."""
        try:
            for head, part in self._parts:
                await self._send(head, part)
            await self.write(self._platform.streams.content(self._end))
            await self._pipe.close()
        except PipeBroken:
            pass  # the client disconnected
        except (StorageError, ClientGone, RegistryError, TimeoutError) as error:
            log("parts-given-up", key=self._blob.key, error=str(error) or "the client does not read")
            await self._pipe.abort()

    async def write(self, content: Content) -> None:
        """Write bytes to the client. Raises TimeoutError when the client does not read them in time."""
        try:
            await within(ANSWER_SECONDS, self._platform.sleep, self._pipe.write(content))
        except TimeoutError:
            await self._pipe.abort()  # before another answer gets the buffer
            raise

    async def _send(self, head: bytes, part: ByteRange) -> None:
        stored = await blobs.read_part(self._platform, self._blob, part)
        if stored is None:
            raise StorageError("the blob was deleted while it was read")
        left = part.length or 0
        try:
            await self.write(self._platform.streams.content(head))
            async with Turns(self._platform.answers) as turns:
                while left:
                    content, count = await turns.next(stored.body, min(left, COPY_BUFFER))
                    if count == 0:
                        raise StorageError("the blob ended early")
                    left -= count
                    await self.write(content)
        finally:
            await stored.body.cancel()
