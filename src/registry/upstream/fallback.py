"""Pull fallback: gets missing content from upstream registries, and copies it into R2 while the client receives it.

Only pulls use it. For a push, content exists only if it is in this registry's bucket.
"""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack

from registry.content import gc_register, manifests
from registry.content.manifests import Received
from registry.ports.platform import Platform
from registry.ports.storage import Source, StorageError, StoredObject
from registry.ports.tasks import within
from registry.spec.errors import Problem, RegistryError
from registry.spec.manifest_format import MAX_MANIFEST_SIZE, PULLED_TYPES
from registry.spec.names import Digest, Reference, RepositoryName, Tag
from registry.spec.ranges import ByteRange, content_range
from registry.telemetry.log import log
from registry.upstream.client import UpstreamClient
from registry.upstream.copied_referrers import RETRY_SECONDS, REVALIDATE_TIMEOUT, CopiedReferrers
from registry.upstream.copies import BlobCopy
from registry.upstream.exchange import UpstreamError
from registry.upstream.selection import Selection, Times
from registry.upstream.upstreams import Upstream

_ACCEPT = {"Accept": ", ".join(PULLED_TYPES)}


class PullFallback:
    """Asks the upstreams in their order. Remembers for the life of the isolate when each tag was revalidated."""

    def __init__(
        self, platform: Platform, upstreams: tuple[Upstream, ...], before_first_write: Callable[[], Awaitable[None]]
    ) -> None:
        self._platform = platform
        self._before_first_write = before_first_write
        self._selection = Selection(platform, upstreams)
        self._client = UpstreamClient(platform)
        self._compared = Times[str]()  # by the key of the tag
        self.note_push = self._selection.note_push
        self.referrers = CopiedReferrers(platform, self._selection, self._client, before_first_write).list

    # ------------------------------------------------------------------ blobs
    async def blob_size(self, name: RepositoryName, digest: Digest) -> int | None:
        """Return the size in bytes of an upstream's blob; None if no upstream has the blob."""

        async def ask(upstream: Upstream, there: RepositoryName) -> int | None:
            answer = await self._client.ask(upstream, "HEAD", there, f"blobs/{digest}")
            if answer is None:
                return None
            await answer.body.cancel()
            if answer.size is None:
                raise UpstreamError(upstream, "does not declare the size of the blob")
            return answer.size

        return await self._selection.first(name, digest, Problem.BLOB_UNKNOWN, ask)

    async def blob(self, name: RepositoryName, digest: Digest) -> BlobCopy | None:
        """Begin the copy of an upstream's blob; return None if no upstream has the blob."""
        if self._selection.upstreams:
            await self._before_first_write()

        async def ask(upstream: Upstream, there: RepositoryName) -> BlobCopy | None:
            answer = await self._client.ask(upstream, "GET", there, f"blobs/{digest}")
            return None if answer is None else BlobCopy(self._platform, name, digest, upstream, answer)

        return await self._selection.first(name, digest, Problem.BLOB_UNKNOWN, ask)

    async def part(self, name: RepositoryName, digest: Digest, part: ByteRange, size: int) -> Source | None:
        """Return a range of an upstream's blob of `size` bytes, without copying it; None if no upstream sends it."""
        asked = content_range(part, size)

        async def ask(upstream: Upstream, there: RepositoryName) -> Source | None:
            headers = {"Range": asked.replace("bytes ", "bytes=").partition("/")[0]}
            answer = await self._client.ask(upstream, "GET", there, f"blobs/{digest}", headers)
            if answer is None:
                return None
            if answer.status == 206 and (answer.content_range or "").strip() == asked:
                return answer.body
            await answer.body.cancel()
            return None

        return await self._selection.first(name, digest, Problem.BLOB_UNKNOWN, ask)

    # ------------------------------------------------------------------ manifests
    async def manifest(
        self, name: RepositoryName, reference: Reference, stored: StoredObject | None
    ) -> Received | None:
        """Return the upstream's manifest if it must be served instead of `stored`, else None.

        `stored` is this registry's own manifest, None if it has none. The returned manifest has been stored, unless R2
        failed. Raises RegistryError for the client if an upstream fails and there is nothing to serve.
        """
        if stored is None:
            return await self._selection.first(
                name,
                reference,
                Problem.MANIFEST_UNKNOWN,
                lambda upstream, there: self._copy(upstream, there, name, reference, None),
            )
        origin = manifests.upstream_of(stored)
        if origin is None or isinstance(reference, Digest):
            return None
        for upstream in self._selection.upstreams:
            there = upstream.name_there(name) if upstream.origin == origin else None
            if there is not None:
                return await self._revalidate(upstream, there, name, reference, stored)
        return None

    async def _revalidate(
        self, upstream: Upstream, there: RepositoryName, name: RepositoryName, tag: Tag, stored: StoredObject
    ) -> Received | None:
        """Return the manifest that the upstream's tag now refers to; None if the stored one is to be served."""
        now = self._platform.now()
        if now - max(stored.uploaded, self._compared.get(stored.key, 0.0)) < upstream.revalidate:
            return None
        # The register is enough: a repository that has a copy had no pushes before upstreams were configured.
        if not upstream.pushed_repositories and (await gc_register.read(self._platform, name)).is_pushed:
            return None
        self._compared.note(stored.key, now)
        timeout = min(upstream.timeout, REVALIDATE_TIMEOUT) if upstream.serve_stale else upstream.timeout
        try:
            comparing = self._compare(upstream, there, name, tag, stored)
            return await within(timeout, self._platform.sleep, comparing)
        except TimeoutError:
            error = UpstreamError.too_slow(upstream, timeout)
        except UpstreamError as failed:
            error = failed
        log("tag-not-revalidated", upstream=upstream.host, repository=name, tag=tag, reason=error.reason)
        self._compared.note(stored.key, now - upstream.revalidate + RETRY_SECONDS)
        if upstream.serve_stale:
            return None
        raise error.told(Problem.MANIFEST_UNKNOWN)

    async def _compare(
        self, upstream: Upstream, there: RepositoryName, name: RepositoryName, tag: Tag, stored: StoredObject
    ) -> Received | None:
        answer = await self._client.ask(upstream, "HEAD", there, f"manifests/{tag}", _ACCEPT)
        if answer is None:
            raise UpstreamError(upstream, f"has no tag {tag} any more", is_denial=True)
        await answer.body.cancel()
        if answer.digest == str(stored.checksum):
            return None
        return await self._copy(upstream, there, name, tag, stored)

    async def _copy(
        self,
        upstream: Upstream,
        there: RepositoryName,
        name: RepositoryName,
        reference: Reference,
        known: StoredObject | None,
    ) -> Received | None:
        """Fetch a manifest and store it; return None if the upstream has none, or still has the `known` one."""
        with ExitStack() as leases:
            answer = await self._client.ask(upstream, "GET", there, f"manifests/{reference}", _ACCEPT)
            if answer is None:
                return None

            async def take_room(size: int) -> None:
                leases.enter_context(await self._platform.pulled_documents.reserve(size))

            data = await self._client.read(upstream, answer, MAX_MANIFEST_SIZE, take_room)
            media_type = (answer.content_type or "").partition(";")[0].strip().lower()
            try:
                received = manifests.receive_stored(data, media_type, reference)
            except RegistryError as error:
                raise UpstreamError(upstream, f"sent an invalid manifest for {reference}: {error.message}") from None
            if known is not None and received.digest == known.checksum:
                return None
            try:
                await self._before_first_write()
                await manifests.keep(self._platform, name, received, reference, upstream.origin, known)
            except (StorageError, RegistryError) as error:
                # Only this registry's copy failed: the client still gets the manifest.
                log("copy-not-stored", repository=name, reference=str(reference), error=str(error))
            return received
