"""Pushes an image: its blobs in parallel and in chunks, then its manifests; then pulls the manifest to verify it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import httpx

from registry_push.answers import location_of, refusal
from registry_push.cache import Cache
from registry_push.client import Client, body_of
from registry_push.failures import Failure, SessionGone
from registry_push.images import Blob, Manifest, digest_of
from registry_push.progress import Report
from registry_push.references import Target
from registry_push.sessions import ChunkSizes, Session


@dataclass(slots=True)
class Counts:
    """The number of blobs by outcome, and the bytes pushed."""

    pushed: int = 0
    existing: int = 0
    mounted: int = 0
    bytes_pushed: int = 0


@dataclass(slots=True)
class Pusher:
    """Pushes an image to one target."""

    client: Client
    target: Target
    cache: Cache
    report: Report
    sizes: ChunkSizes
    jobs: int  # blobs pushed at the same time
    mount_from: Sequence[str] = ()
    dry_run: bool = False
    counts: Counts = field(default_factory=Counts)

    async def check(self) -> None:
        """Check that the target is a registry that accepts the credentials, before the image is read.

        Raises Refused, Unreachable, or Misused if the host is not a registry.
        """
        response = await self.client.check()
        if response.status_code in (401, 403):
            raise refusal(response, f"logging in to {self.target.registry.host}")

    async def push(self, image: Manifest) -> str:
        """Push the blobs and manifests, and verify the result; returns the digest."""
        room = asyncio.Semaphore(self.jobs)

        async def push_blob(blob: Blob) -> None:
            async with room:
                await self._push_blob(blob)

        blobs = {blob.digest: blob for blob in image.all_blobs()}
        try:
            async with asyncio.TaskGroup() as group:
                for blob in blobs.values():
                    group.create_task(push_blob(blob))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        if not self.dry_run:
            await self._push_manifest(image, self.target.tag)
            await self._verify(image)
        return image.digest

    # ------------------------------------------------------------------ blobs
    async def _push_blob(self, blob: Blob) -> None:
        label = _label(blob)
        if await self._has(blob):
            self.counts.existing += 1
            self.report.end(label, "exists already")
        elif self.dry_run:
            self.counts.pushed += 1
            self.counts.bytes_pushed += blob.content.size
            self.report.end(label, f"would be pushed, {blob.content.size} bytes")
        else:
            await self._upload(blob, label)

    async def _has(self, blob: Blob) -> bool:
        response = await self.client.follow("HEAD", self._path(f"blobs/{blob.digest}"))
        if response.status_code in (401, 403):
            raise refusal(response, f"checking for blobs in {self.target.repository}")
        return response.status_code == 200

    async def _upload(self, blob: Blob, label: str) -> None:
        """Upload a blob, in a new session when the registry has lost the current one."""
        self.report.begin(label, blob.content.size)
        for attempt in count(1):
            try:
                outcome = await self._try(blob, label)
            except SessionGone as problem:
                self.cache.forget(self._about(blob))
                if not await self._has(blob):
                    await self.client.retries.pause(attempt, problem, f"uploading {blob.digest}")
                    self.report.reached(label, 0)
                    continue
                outcome = "pushed"  # by an earlier request whose response was lost
            self.cache.forget(self._about(blob))
            self.report.end(label, outcome)
            if outcome == "mounted":
                self.counts.mounted += 1
            else:
                self.counts.pushed += 1
                self.counts.bytes_pushed += blob.content.size
            return

    async def _try(self, blob: Blob, label: str) -> str:
        session = await self._open(blob)
        if session is None:
            return "mounted"
        on_progress = partial(self.report.reached, label)
        try:
            await session.complete(blob.content, blob.digest, on_progress, lambda: self._note(blob, session))
        except Failure as failure:
            if failure.response is not None and failure.response.status_code == 400:
                self.cache.forget(self._about(blob))
                if not blob.is_sound():
                    raise Failure(
                        f"{blob.content.path} does not match its digest {blob.digest}: remove the file and try again"
                    ) from None
            raise
        return "pushed"

    async def _open(self, blob: Blob) -> Session | None:
        """The session of an earlier run if the registry still has it, else a new one; None for a mounted blob."""
        noted = self.cache.recall(self._about(blob)).get("location")
        if isinstance(noted, str):
            session = Session(self.client, httpx.URL(noted), self.sizes)
            try:
                await session.look()
            except SessionGone:
                self.cache.forget(self._about(blob))
            else:
                if 0 < session.offset <= blob.content.size:
                    self.report.resumed(_label(blob), session.offset)
                    return session
        for source in self.mount_from:
            response = await self.client.ask("POST", self._path(f"blobs/uploads/?mount={blob.digest}&from={source}"))
            if response.status_code == 201:
                return None
            session = self._begun(response)
            if source == self.mount_from[-1]:
                return session
            await self.client.ask("DELETE", session.location)
        return self._begun(await self.client.ask("POST", self._path("blobs/uploads/")))

    def _begun(self, response: httpx.Response) -> Session:
        if response.status_code != 202 or "location" not in response.headers:
            raise refusal(response, f"starting an upload to {self.target.repository}")
        self.sizes.learn(response.headers)
        return Session(self.client, location_of(response), self.sizes)

    def _note(self, blob: Blob, session: Session) -> None:
        self.cache.note(self._about(blob), {"location": str(session.location)})

    def _about(self, blob: Blob) -> str:
        return f"upload {self.target.registry.origin}/{self.target.repository} {blob.digest}"

    # ------------------------------------------------------------------ manifests
    async def _push_manifest(self, manifest: Manifest, reference: str) -> None:
        """Push a manifest after its children: registries refuse an index whose manifests are missing."""
        for child in manifest.children:
            await self._push_manifest(child, child.digest)

        response = await self.client.ask(
            "PUT",
            self._path(f"manifests/{reference}"),
            {"Content-Type": manifest.media_type, "Content-Length": str(len(manifest.content))},
            body_of(manifest.content),
        )
        if response.status_code not in (200, 201, 202, 204):
            raise refusal(response, f"pushing the manifest {reference}")
        self.report.end(f"manifest {reference}", "pushed")

    async def _verify(self, image: Manifest) -> None:
        """Pull the manifest by its tag and compare its digest."""
        response = await self.client.follow(
            "GET", self._path(f"manifests/{self.target.tag}"), {"Accept": image.media_type}
        )
        if response.status_code != 200:
            raise refusal(response, f"pulling {self.target} to verify it")
        found = digest_of(response.content)
        if found != image.digest:
            raise Failure(f"{self.target} is now {found} instead of {image.digest}: has another client pushed the tag?")

    def _path(self, rest: str) -> str:
        return f"/v2/{self.target.repository}/{rest}"


def _label(blob: Blob) -> str:
    """The name of a blob's upload in the progress report."""
    return f"push {blob.digest.partition(':')[2][:12]}"
