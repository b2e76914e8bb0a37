"""Upload sessions: bytes go to the registry in chunks, and after a failure from where the registry says it stands."""

import re
from collections.abc import AsyncIterator, Callable

import httpx

from registry_push.answers import location_of, refusal
from registry_push.client import Body, Client, with_digest
from registry_push.failures import Failure, SessionGone
from registry_push.retries import RETRIED, Problem, described
from registry_push.slices import Slice

MIB = 1024 * 1024
DEFAULT_CHUNK = 64 * MIB  # where the registry does not say: below the 100 MB that Cloudflare takes
SMALLEST_CHUNK = MIB


class ChunkSizes:
    """How large chunks are: what the registry says, what was asked for, and what came through so far."""

    def __init__(self, asked: int | None = None) -> None:
        """Begin; `asked` is in bytes."""
        self._asked = asked
        self._largest = asked or DEFAULT_CHUNK
        self._step = min(SMALLEST_CHUNK, self._largest)
        self._next = self._largest
        self._passed = 0
        self._learnt = False

    def learn(self, headers: httpx.Headers) -> None:
        """From the answer that opened a session: the specification's OCI-Chunk-Min-Length and OCI-Chunk-Max-Length."""
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
        """Bytes of a chunk at most, for all that is known."""
        return self._whole_steps(self._largest)

    @property
    def next(self) -> int:
        """Bytes of the next chunk at most."""
        return self._whole_steps(self._next)

    def refused(self, size: int) -> None:
        """A chunk of `size` bytes was answered with 413: none is that large again."""
        if size <= self._step:
            raise Failure(f"a chunk of {size} bytes is too large for what is before the registry, and it takes no less")
        self._largest = self._next = min(self._next, max(self._step, size // 2))

    def failed(self, size: int) -> None:
        """A chunk did not get through, perhaps refused with an answer that was lost: the next one is smaller."""
        self._next = min(self._next, max(self._step, size // 2))

    def passed(self, size: int) -> None:
        """A chunk got through: the next ones grow again, but to nothing that never got through."""
        self._passed = min(self._largest, max(self._passed, size))
        self._next = max(self._next, min(self._next * 2, self._passed))

    def _whole_steps(self, size: int) -> int:
        """Multiples of the smallest chunk suit a registry that stores such parts."""
        return max(self._step, size // self._step * self._step)


class Session:
    """An upload session, how far it is, and the headers of the last answer about it."""

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
        told: Callable[[int], None],
        moved: Callable[[], None] = lambda: None,
    ) -> httpx.Response:
        """Send what is missing of a whole blob, and have it become the blob `digest`.

        What fits a chunk goes with the request that closes the session: one request less, and the registry can leave
        the hashing to its storage. Raises as `send`.
        """
        if self.offset == 0 and content.size <= self._sizes.next:
            response = await self._put_whole(content, digest, told)
            if response is not None:
                return response
        await self.send(content, 0, told, moved)
        return await self.close(digest)

    async def send(
        self, content: Slice, base: int, told: Callable[[int], None], moved: Callable[[], None] = lambda: None
    ) -> None:
        """Send what is missing of `content`, whose first byte is the blob's byte `base`.

        `told` hears how far the upload is, in bytes of the blob, also when it falls back; `moved` that the location
        has changed. Raises SessionGone, Unreachable, or the failure that the registry's answer means.
        """
        attempt, end = 0, base + content.size
        while self.offset < end:
            before = self.offset
            if before < base:
                raise SessionGone(f"the registry has lost bytes that it had taken, from {before} on")
            size = min(self._sizes.next, end - before)
            problem = await self._send_chunk(content.part(before - base, size), told)
            if self.offset > before:
                attempt = 0
                self._sizes.passed(self.offset - before)
            elif problem is not None:
                attempt += 1
                self._sizes.failed(size)
                await self._client.retries.pause(attempt, problem, "uploading a chunk")
                await self.look()
            moved()
            told(self.offset)

    async def close(self, digest: str) -> httpx.Response:
        """Have the bytes become the blob `digest`. SessionGone may also mean that an earlier try did, unheard."""
        response = await self._client.ask("PUT", with_digest(self.location, digest), {"Content-Length": "0"})
        return self._closed(response)

    async def look(self) -> None:
        """Ask the registry how far the session is; raises SessionGone."""
        response = await self._client.ask("GET", self.location)
        if response.status_code in (401, 403):
            raise refusal(response, "asking how far an upload is")
        if response.status_code not in (200, 202, 204):
            raise SessionGone(f"the upload session is gone: {described(response)}", response)
        self._take(response, self.offset)

    async def _put_whole(self, content: Slice, digest: str, told: Callable[[int], None]) -> httpx.Response | None:
        """Send everything at once; None when it is to be sent in chunks, from `offset` on."""
        problem: Problem
        location = with_digest(self.location, digest)
        try:
            problem = response = await self._client.once("PUT", location, *_body(content, 0, told))
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
            raise SessionGone("the registry does not know the upload session any more", response)
        if response.status_code not in (201, 204):
            raise refusal(response, "finishing an upload")
        return response

    async def _send_chunk(self, chunk: Slice, told: Callable[[int], None]) -> Problem | None:
        """Send one chunk and see how far the session is; returns what went wrong if that may mend itself."""
        start, size = self.offset, chunk.size
        headers, body = _body(chunk, start, told)
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
                raise SessionGone("the registry does not know the upload session any more", response)
            case 416:
                if "range" in response.headers:
                    self._take(response, 1)  # "0-0" is one byte here: a chunk at 0 would have been right for none
                return response
            case status if status in RETRIED:
                return response
        raise refusal(response, "uploading a chunk")

    def _take(self, response: httpx.Response, expected: int) -> None:
        """Where the session is now. "0-0" is one byte or none: the specification has no way to say nothing."""
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


def _body(content: Slice, start: int, told: Callable[[int], None]) -> tuple[dict[str, str], Body]:
    """The headers and the body of a request that sends bytes; `told` hears how far it is, counted from `start`."""

    def stream() -> AsyncIterator[bytes]:
        position = start

        def sent(count: int) -> None:
            nonlocal position
            position += count
            told(position)

        return content.stream(sent)

    return {"Content-Length": str(content.size), "Content-Type": "application/octet-stream"}, stream


def _number(text: str | None) -> int | None:
    found = re.fullmatch(r"\d{1,15}", text or "", re.ASCII)
    return int(found[0]) or None if found else None
