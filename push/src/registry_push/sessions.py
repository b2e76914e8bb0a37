"""Upload sessions: send a blob in chunks, and after a failure continue at the offset that the registry reports."""

import re
from collections.abc import AsyncIterator, Callable

import httpx

from registry_push.answers import location_of, refusal
from registry_push.client import Body, Client, with_digest
from registry_push.failures import Failure, SessionGone
from registry_push.retries import RETRIED, Problem, described
from registry_push.slices import Slice

MIB = 1024 * 1024
DEFAULT_CHUNK = 64 * MIB  # if the registry states no limit: below Cloudflare's request limit of 100 MB
SMALLEST_CHUNK = MIB


class ChunkSizes:
    """Chooses the size of chunks by the registry's limits, the user's choice, and the sizes that succeeded so far."""

    def __init__(self, asked: int | None = None) -> None:
        """Create it; `asked` is the user's choice in bytes."""
        self._asked = asked
        self._largest = asked or DEFAULT_CHUNK
        self._step = min(SMALLEST_CHUNK, self._largest)
        self._next = self._largest
        self._passed = 0
        self._learnt = False

    def learn(self, headers: httpx.Headers) -> None:
        """Read the limits of the response that opened a session: OCI-Chunk-Min-Length and OCI-Chunk-Max-Length."""
        if self._learnt:
            return
        largest, smallest = _number(headers.get("oci-chunk-max-length")), _number(headers.get("oci-chunk-min-length"))
        if largest is None and smallest is None:
            return
        self._learnt = True
        self._largest = min(self._asked or largest or DEFAULT_CHUNK, largest or self._largest)
        self._step = min(smallest or self._step, self._largest)
        self._next = self._largest

    @property
    def largest(self) -> int:
        """The largest permitted chunk, in bytes."""
        return self._whole_steps(self._largest)

    @property
    def next(self) -> int:
        """The largest size for the next chunk, in bytes."""
        return self._whole_steps(self._next)

    def refused(self, size: int) -> None:
        """Record that a chunk of `size` bytes was answered with 413: no later one is that large. Raises Failure."""
        if size <= self._step:
            raise Failure(
                f"a chunk of {size} bytes, the smallest size, was refused as too large (413): "
                "raise the request limit of the proxy or CDN in front of the registry"
            )
        self._largest = self._next = min(self._next, max(self._step, size // 2))

    def failed(self, size: int) -> None:
        """Record that a chunk failed; a 413 may have been lost, so the next one is smaller."""
        self._next = min(self._next, max(self._step, size // 2))

    def passed(self, size: int) -> None:
        """Record that a chunk succeeded: the next ones grow again, up to the largest size that succeeded."""
        self._passed = min(self._largest, max(self._passed, size))
        self._next = max(self._next, min(self._next * 2, self._passed))

    def _whole_steps(self, size: int) -> int:
        """Round down to a multiple of the smallest chunk, since registries may store parts of that size."""
        return max(self._step, size // self._step * self._step)


class Session:
    """An upload session: its location, its offset, and the headers of the registry's last response about it."""

    def __init__(self, client: Client, location: httpx.URL, sizes: ChunkSizes, offset: int = 0) -> None:
        self.location = location
        self.offset = offset
        self.headers = httpx.Headers()
        self._client = client
        self._sizes = sizes

    async def complete(
        self,
        content: Slice,
        digest: str,
        on_progress: Callable[[int], None],
        on_moved: Callable[[], None] = lambda: None,
    ) -> httpx.Response:
        """Send the missing bytes of a whole blob and close the session with its `digest`.

        A blob that fits one chunk goes with the request that closes the session: this saves a request, and the registry
        can leave hashing to its storage. Raises as `send`.
        """
        if self.offset == 0 and content.size <= self._sizes.next:
            response = await self._put_whole(content, digest, on_progress)
            if response is not None:
                return response
        await self.send(content, 0, on_progress, on_moved)
        return await self.close(digest)

    async def send(
        self, content: Slice, base: int, on_progress: Callable[[int], None], on_moved: Callable[[], None] = lambda: None
    ) -> None:
        """Send the missing bytes of `content`, which begins at the offset `base` of the blob.

        `on_progress` gets the offset in the blob, which may also decrease; `on_moved` is called when the location may
        have changed. Raises SessionGone, Unreachable, or Failure for a refusal by the registry.
        """
        attempt, end = 0, base + content.size
        while self.offset < end:
            before = self.offset
            if before < base:
                raise SessionGone(f"the registry has lost bytes that it had accepted, from offset {before} on")
            size = min(self._sizes.next, end - before)
            problem = await self._send_chunk(content.part(before - base, size), on_progress)
            if self.offset > before:
                attempt = 0
                self._sizes.passed(self.offset - before)
            elif problem is not None:
                attempt += 1
                self._sizes.failed(size)
                await self._client.retries.pause(attempt, problem, "uploading a chunk")
                await self.look()
            on_moved()
            on_progress(self.offset)

    async def close(self, digest: str) -> httpx.Response:
        """Close the session with the blob's `digest`. After SessionGone the blob may exist, if a response was lost."""
        response = await self._client.ask("PUT", with_digest(self.location, digest), {"Content-Length": "0"})
        return self._closed(response)

    async def look(self) -> None:
        """Ask the registry for the session's offset; raises SessionGone."""
        response = await self._client.ask("GET", self.location)
        if response.status_code in (401, 403):
            raise refusal(response, "asking for the status of an upload")
        if response.status_code not in (200, 202, 204):
            raise SessionGone(f"the upload session is gone: {described(response)}", response)
        self._take(response, self.offset)

    async def _put_whole(
        self, content: Slice, digest: str, on_progress: Callable[[int], None]
    ) -> httpx.Response | None:
        """Send the blob in one request; None when that failed and the caller has to send chunks from `offset` on."""
        problem: Problem
        location = with_digest(self.location, digest)
        try:
            problem = response = await self._client.once("PUT", location, *_body(content, 0, on_progress))
        except httpx.TransportError as error:
            problem = error
        else:
            if response.status_code == 413:
                self._sizes.refused(content.size)
                return None
            if response.status_code not in RETRIED:
                return self._closed(response)
        self._sizes.failed(content.size)
        await self._client.retries.pause(1, problem, f"uploading {digest}")
        await self.look()
        return None

    def _closed(self, response: httpx.Response) -> httpx.Response:
        if response.status_code in (404, 416):
            raise SessionGone("the registry no longer knows the upload session", response)
        if response.status_code not in (201, 204):
            raise refusal(response, "finishing an upload")
        return response

    async def _send_chunk(self, chunk: Slice, on_progress: Callable[[int], None]) -> Problem | None:
        """Send one chunk and update the offset; returns the problem if a retry may help."""
        start, size = self.offset, chunk.size
        headers, body = _body(chunk, start, on_progress)
        headers["Content-Range"] = f"{start}-{start + size - 1}"
        try:
            response = await self._client.once("PATCH", self.location, headers, body)
        except httpx.TransportError as error:
            return error
        match response.status_code:
            case 200 | 201 | 202 | 204:
                self._take(response, start + size)
                return response
            case 413:
                self._sizes.refused(size)
                return None
            case 404:
                raise SessionGone("the registry no longer knows the upload session", response)
            case 416:
                if "range" in response.headers:
                    self._take(response, 1)  # "0-0" means one byte here: with none, a chunk at 0 would not get 416
                return response
            case status if status in RETRIED:
                return response
        raise refusal(response, "uploading a chunk")

    def _take(self, response: httpx.Response, expected: int) -> None:
        """Update location and offset. "0-0" means one byte or none: the specification cannot express an empty range."""
        self.headers = response.headers
        if "location" in response.headers:
            self.location = location_of(response)
        found = re.fullmatch(r"(?:bytes=)?0-(\d{1,15})", response.headers.get("range", ""), re.ASCII)
        if found is None:
            self.offset = expected
        elif found[1] == "0":
            self.offset = min(expected, 1)
        else:
            self.offset = int(found[1]) + 1


def _body(content: Slice, start: int, on_progress: Callable[[int], None]) -> tuple[dict[str, str], Body]:
    """The headers and the body of a request that sends `content`; `on_progress` gets positions counted from `start`."""

    def stream() -> AsyncIterator[bytes]:
        position = start

        def sent(count: int) -> None:
            nonlocal position
            position += count
            on_progress(position)

        return content.stream(sent)

    return {"Content-Length": str(content.size), "Content-Type": "application/octet-stream"}, stream


def _number(text: str | None) -> int | None:
    found = re.fullmatch(r"\d{1,15}", text or "", re.ASCII)
    return int(found[0]) or None if found else None
