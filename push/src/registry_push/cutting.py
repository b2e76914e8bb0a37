"""Cuts the bodies that clients push to the proxy into chunks. Each chunk stays in a file until the registry has it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from registry_push.client import Client
from registry_push.failures import SessionGone
from registry_push.sessions import ChunkSizes, Session
from registry_push.slices import Slice


@dataclass(slots=True)
class Cutter:
    """Sends the bodies of one upload session to the registry."""

    client: Client
    session: Session
    sizes: ChunkSizes

    async def append(self, body: AsyncIterator[bytes]) -> None:
        """Send the body of a PATCH; afterwards the session has the new offset. Raises as `Session.send`."""
        with TemporaryDirectory(prefix="registry-push-") as folder:
            async for chunk in self._spooled(body, Path(folder)):
                await self.session.send(chunk, self.session.offset, _ignore_progress)
        if not self.session.headers:
            await self.session.look()

    async def close(self, body: AsyncIterator[bytes], digest: str, blob: str) -> httpx.Response:
        """Send the body of a PUT (the whole blob, its last bytes, or nothing); returns the registry's response.

        `blob` is the path of the blob: when the session is gone, the blob may already be complete there.
        """
        try:
            with TemporaryDirectory(prefix="registry-push-") as folder:
                chunks = self._spooled(body, Path(folder))
                first = await anext(chunks, None)
                if first is None:
                    return await self.session.close(digest)
                if self.session.offset == 0 and first.size < self.sizes.largest:
                    return await self.session.complete(first, digest, _ignore_progress)
                await self.session.send(first, self.session.offset, _ignore_progress)
                async for chunk in chunks:
                    await self.session.send(chunk, self.session.offset, _ignore_progress)
                return await self.session.close(digest)
        except SessionGone:
            response = await self.client.ask("HEAD", blob)
            if response.status_code != 200:
                raise
            return httpx.Response(201, headers={"Location": blob, "Docker-Content-Digest": digest})

    async def _spooled(self, body: AsyncIterator[bytes], folder: Path) -> AsyncIterator[Slice]:
        """The body in chunks; each one overwrites the file of the one before. Only the last may be small."""
        path = folder / "chunk"
        rest = b""
        while True:
            left = largest = self.sizes.largest
            with path.open("wb") as file:
                while left and (block := rest or await anext(body, b"")):
                    now, rest = block[:left], block[left:]
                    left -= file.write(now)
            if left < largest:
                yield Slice(path, 0, largest - left)
            if left:
                return


def _ignore_progress(position: int) -> None:
    """Do nothing: the proxy shows no progress."""
