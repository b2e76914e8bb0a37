"""Pull fallback: what is not here is asked for at other registries, and copied into R2 on its way to the client.

Only pulls come here. What a push asks for exists when it is in this bucket.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

from registry.content import gc_register, manifests
from registry.content.manifests import Received
from registry.content.referrers import Room
from registry.ports.platform import SMALL_DOCUMENT, Platform
from registry.ports.storage import Attributes, Source, StorageError, StoredBody, StoredObject
from registry.ports.tasks import within
from registry.spec.errors import Problem, RegistryError
from registry.spec.manifest_format import MAX_MANIFEST_SIZE, PULLED_TYPES
from registry.spec.names import Digest, Reference, RepositoryName, Tag
from registry.spec.ranges import ByteRange, content_range
from registry.storage import keys
from registry.telemetry.log import log
from registry.upstream import referrers
from registry.upstream.client import UpstreamClient, UpstreamError
from registry.upstream.copies import BlobCopy
from registry.upstream.upstreams import Upstream

T = TypeVar("T")
_K = TypeVar("_K", bound=str)

_FOR_EVER = float("inf")

REVALIDATE_TIMEOUT = 5  # seconds that a pull waits for an upstream when there is a copy to serve
_RETRY_SECONDS = 30  # after which an upstream that failed to revalidate a tag is asked again
_REMEMBERED = 10_000  # tags, and repositories
_NOT_PUSHED_SECONDS = 30  # for which a repository is taken for one that nobody has pushed to
_ACCEPT = {"Accept": ", ".join(PULLED_TYPES)}


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A list of upstreams' referrers (`registry.upstream.referrers.unpack`).

    `failure`: there is none, since an upstream failed; to be raised when there is nothing here either.
    """

    data: bytes = b""
    failure: RegistryError | None = None


async def _read_list(stored: StoredBody, room: Room) -> bytes:
    if stored.object.size > SMALL_DOCUMENT:
        await room.take()
    return await stored.body.read(stored.object.size)


class PullFallback:
    """Asks the upstreams in their order. Remembers for the life of the isolate when tags were compared."""

    def __init__(
        self, platform: Platform, upstreams: tuple[Upstream, ...], before_first_write: Callable[[], Awaitable[None]]
    ) -> None:
        self._platform = platform
        self._upstreams = upstreams
        self._before_first_write = before_first_write
        self._client = UpstreamClient(platform)
        self._compared: dict[str, float] = {}  # key of a tag -> when, in seconds since the epoch
        self._pushed: dict[RepositoryName, float] = {}  # those nobody pushed to, until when; those somebody did: inf

    # ------------------------------------------------------------------ blobs
    async def blob_size(self, name: RepositoryName, digest: Digest) -> int | None:
        """The size of a blob that an upstream has, in bytes; None when none has it."""

        async def ask(upstream: Upstream, there: RepositoryName) -> int | None:
            answer = await self._client.ask(upstream, "HEAD", there, f"blobs/{digest}")
            if answer is None:
                return None
            await answer.body.cancel()
            if answer.size is None:
                raise UpstreamError(upstream, "does not say how large the blob is")
            return answer.size

        return await self._first(name, digest, Problem.BLOB_UNKNOWN, ask)

    async def blob(self, name: RepositoryName, digest: Digest) -> BlobCopy | None:
        """A blob that an upstream has, to be passed on and copied; None when none has it."""
        if self._upstreams:
            await self._before_first_write()

        async def ask(upstream: Upstream, there: RepositoryName) -> BlobCopy | None:
            answer = await self._client.ask(upstream, "GET", there, f"blobs/{digest}")
            return None if answer is None else BlobCopy(self._platform, name, digest, upstream, answer)

        return await self._first(name, digest, Problem.BLOB_UNKNOWN, ask)

    async def part(self, name: RepositoryName, digest: Digest, part: ByteRange, size: int) -> Source | None:
        """Some bytes of a blob of `size` bytes: passed on, not copied. None when no upstream sends parts."""
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

        return await self._first(name, digest, Problem.BLOB_UNKNOWN, ask)

    # ------------------------------------------------------------------ manifests
    async def manifest(
        self, name: RepositoryName, reference: Reference, stored: StoredObject | None
    ) -> Received | None:
        """What is to be served instead of `stored`, which is what lies here, and was stored; None when that is right.

        Raises what the client is told when an upstream fails and there is nothing to serve.
        """
        if stored is None:
            return await self._first(
                name,
                reference,
                Problem.MANIFEST_UNKNOWN,
                lambda upstream, there: self._copy(upstream, there, name, reference, None),
            )
        origin = manifests.upstream_of(stored)
        if origin is None or isinstance(reference, Digest):
            return None
        for upstream in self._upstreams:
            there = upstream.name_there(name) if upstream.origin == origin else None
            if there is not None:
                return await self._revalidate(upstream, there, name, reference, stored)
        return None

    async def note_push(self, name: RepositoryName) -> None:
        """A manifest was pushed: from now on no upstream answers for the repository."""
        if self._upstreams and self._pushed.get(name) != _FOR_EVER:
            is_noted = await gc_register.note_push(self._platform, name)
            self._remember(self._pushed, name, _FOR_EVER if is_noted else 0.0)

    async def _may_answer(self, upstream: Upstream, name: RepositoryName) -> bool:
        """Whether an upstream is asked for a repository: somebody else may have one of the same name there."""
        if upstream.pushed_repositories:
            return True
        until = self._pushed.get(name, 0.0)
        if until <= self._platform.now():
            is_pushed = await manifests.is_pushed(self._platform, name)
            until = _FOR_EVER if is_pushed else self._platform.now() + _NOT_PUSHED_SECONDS
            self._remember(self._pushed, name, until)
        return until != _FOR_EVER

    async def _revalidate(
        self, upstream: Upstream, there: RepositoryName, name: RepositoryName, tag: Tag, stored: StoredObject
    ) -> Received | None:
        """The manifest that the upstream's tag has moved to since."""
        now = self._platform.now()
        if now - max(stored.uploaded, self._compared.get(stored.key, 0.0)) < upstream.revalidate:
            return None
        # There is a copy: nobody had pushed to the repository before there were upstreams.
        if not upstream.pushed_repositories and (await gc_register.read(self._platform, name)).is_pushed:
            return None
        self._remember(self._compared, stored.key, now)
        timeout = min(upstream.timeout, REVALIDATE_TIMEOUT) if upstream.serve_stale else upstream.timeout
        try:
            comparing = self._compare(upstream, there, name, tag, stored)
            return await within(timeout, self._platform.sleep, comparing)
        except TimeoutError:
            error = UpstreamError.too_slow(upstream, timeout)
        except UpstreamError as failed:
            error = failed
        log("tag-not-revalidated", upstream=upstream.host, repository=name, tag=tag, reason=error.reason)
        self._remember(self._compared, stored.key, now - upstream.revalidate + _RETRY_SECONDS)
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
        """Fetch a manifest and store it; None when the upstream has none, or the one that is `known`."""
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
                raise UpstreamError(upstream, f"sent no manifest of {reference}: {error.message}") from None
            if known is not None and received.digest == known.checksum:
                return None
            try:
                await self._before_first_write()
                await manifests.keep(self._platform, name, received, reference, upstream.origin, known)
            except (StorageError, RegistryError) as error:
                # Ours failed: that is nothing to the client.
                log("copy-not-stored", repository=name, reference=str(reference), error=str(error))
            return received

    # ------------------------------------------------------------------ referrers
    async def referrers(self, name: RepositoryName, subject: Digest, room: Room) -> Elsewhere:
        """The referrers of `subject` that upstreams have, of the first one that has any; cached like a tag.

        Raises what the client is told when an upstream fails, and nothing that is here may be served instead.
        """
        upstreams = [one for one in self._upstreams if one.name_there(name) and await self._may_answer(one, name)]
        if not upstreams:
            return Elsewhere()
        key = keys.copied_referrers(name, subject)
        stored = await self._platform.storage.get(key)
        copied = None if stored is None else await _read_list(stored, room)
        now = self._platform.now()
        seen = max(0.0 if stored is None else stored.object.uploaded, self._compared.get(key, 0.0))
        is_stale_served = all(one.serve_stale for one in upstreams)
        if now - seen < min(one.revalidate for one in upstreams):
            return Elsewhere(copied or b"")
        if copied is not None:
            self._remember(self._compared, key, now)
        try:
            found = await self._list_there(name, subject, room, patient=copied is None or not is_stale_served)
        except RegistryError as error:
            if error.problem not in (Problem.UPSTREAM_FAILED, Problem.UPSTREAM_SLOW) or not is_stale_served:
                raise
            if copied is None:
                return Elsewhere(failure=error)
            retry = now - min(one.revalidate for one in upstreams) + _RETRY_SECONDS
            self._remember(self._compared, key, retry)
            return Elsewhere(copied)
        self._remember(self._compared, key, now)
        if found is None and copied is not None and is_stale_served:
            return Elsewhere(copied)
        data = referrers.pack(found or {})
        if data != (copied or b""):
            await self._keep_list(key, data)
        return Elsewhere(data)

    async def _list_there(
        self, name: RepositoryName, subject: Digest, room: Room, *, patient: bool
    ) -> Mapping[Digest, str] | None:
        """What the first upstream that has any says; an empty list when one says there are none, None when none does.

        Without patience an upstream has REVALIDATE_TIMEOUT.
        """
        is_answered = False

        async def ask(upstream: Upstream, there: RepositoryName) -> Mapping[Digest, str] | None:
            nonlocal is_answered
            asking = referrers.fetch(self._client, upstream, there, subject, room.take)
            if patient:
                found = await asking
            else:
                timeout = min(upstream.timeout, REVALIDATE_TIMEOUT)
                try:
                    found = await within(timeout, self._platform.sleep, asking)
                except TimeoutError:
                    raise UpstreamError.too_slow(upstream, timeout) from None
            is_answered = is_answered or found is not None
            return found or None

        try:
            found = await self._first(name, subject, Problem.MANIFEST_UNKNOWN, ask)
        except RegistryError as error:
            if error.problem is not Problem.MANIFEST_UNKNOWN:
                raise
            return None  # denied: spec, "Listing Referrers": an empty list for what nobody knows
        return {} if found is None and is_answered else found

    async def _keep_list(self, key: str, data: bytes) -> None:
        try:
            await self._before_first_write()
            await self._platform.storage.put(key, data, Attributes("text/plain"))
        except (StorageError, RegistryError) as error:
            log("copy-not-stored", key=key, error=str(error))

    def _remember(self, known: dict[_K, float], key: _K, when: float) -> None:
        if len(known) >= _REMEMBERED:
            known.clear()
        known[key] = when

    async def _first(
        self,
        name: RepositoryName,
        reference: Reference,
        unknown: Problem,
        ask: Callable[[Upstream, RepositoryName], Awaitable[T | None]],
    ) -> T | None:
        """What the first upstream that has it answers; raises what the client is told when none has and one failed.

        A tag stops at an upstream that fails: the next one may have something else of the same name.
        """
        failure: UpstreamError | None = None
        for upstream in self._upstreams:
            there = upstream.name_there(name)
            if there is None or not await self._may_answer(upstream, name):
                continue
            try:
                found = await ask(upstream, there)
            except UpstreamError as error:
                log("upstream-failed", upstream=upstream.host, repository=name, reason=error.reason)
                if failure is None or failure.is_denial:
                    failure = error
                if not (error.is_denial or isinstance(reference, Digest)):
                    break
            else:
                if found is not None:
                    return found
        if failure is not None:
            raise failure.told(unknown)
        return None
