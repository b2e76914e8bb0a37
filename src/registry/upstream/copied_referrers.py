"""Lists of upstreams' referrers: copied into the bucket, and revalidated like tags."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from registry.content.referrers import Room
from registry.ports.platform import SMALL_DOCUMENT, Platform
from registry.ports.storage import Attributes, StorageError, StoredBody
from registry.ports.tasks import within
from registry.spec.errors import Problem, RegistryError
from registry.spec.names import Digest, RepositoryName
from registry.storage import keys
from registry.telemetry.log import log
from registry.upstream import referrers
from registry.upstream.client import UpstreamClient
from registry.upstream.exchange import UpstreamError
from registry.upstream.selection import Selection, Times
from registry.upstream.upstreams import Upstream

# Seconds.
REVALIDATE_TIMEOUT = 5  # for which a pull waits for an upstream if there is a copy to serve
RETRY_SECONDS = 30  # after which a copy is revalidated again if the upstream failed


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A packed list of an upstream's referrers (`registry.upstream.referrers.unpack` reads it).

    `failure`: why there is no list. The caller raises it if this registry has no referrers of its own either.
    """

    data: bytes = b""
    failure: RegistryError | None = None


async def _read_list(stored: StoredBody, room: Room) -> bytes:
    if stored.object.size > SMALL_DOCUMENT:
        await room.take()
    return await stored.body.read(stored.object.size)


class CopiedReferrers:
    """Gets referrers from upstreams. Remembers for the life of the isolate when each list was revalidated."""

    def __init__(
        self,
        platform: Platform,
        selection: Selection,
        client: UpstreamClient,
        before_first_write: Callable[[], Awaitable[None]],
    ) -> None:
        self._platform = platform
        self._selection = selection
        self._client = client
        self._before_first_write = before_first_write
        self._compared = Times[str]()  # by the key of the copy

    async def list(self, name: RepositoryName, subject: Digest, room: Room) -> Elsewhere:
        """Return the referrers of `subject` at the first upstream that has any; they are cached like a tag.

        Raises RegistryError for the client if an upstream fails and `serve_stale` is false.
        """
        upstreams = [
            one
            for one in self._selection.upstreams
            if one.name_there(name) and await self._selection.may_answer(one, name)
        ]
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
            self._compared.note(key, now)
        try:
            found = await self._list_there(name, subject, room, patient=copied is None or not is_stale_served)
        except RegistryError as error:
            if error.problem not in (Problem.UPSTREAM_FAILED, Problem.UPSTREAM_SLOW) or not is_stale_served:
                raise
            if copied is None:
                return Elsewhere(failure=error)
            retry = now - min(one.revalidate for one in upstreams) + RETRY_SECONDS
            self._compared.note(key, retry)
            return Elsewhere(copied)
        self._compared.note(key, now)
        if found is None and copied is not None and is_stale_served:
            return Elsewhere(copied)
        data = referrers.pack(found or {})
        if data != (copied or b""):
            await self._keep_list(key, data)
        return Elsewhere(data)

    async def _list_there(
        self, name: RepositoryName, subject: Digest, room: Room, *, patient: bool
    ) -> Mapping[Digest, str] | None:
        """Return the referrers of the first upstream that has any.

        Returns an empty mapping if an upstream answered that there are none, and None if no upstream has an answer.
        If not `patient`, an upstream must answer within REVALIDATE_TIMEOUT.
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
            found = await self._selection.first(name, subject, Problem.MANIFEST_UNKNOWN, ask)
        except RegistryError as error:
            if error.problem is not Problem.MANIFEST_UNKNOWN:
                raise
            return None  # access denied: spec, "Listing Referrers", wants an empty list for an unknown manifest
        return {} if found is None and is_answered else found

    async def _keep_list(self, key: str, data: bytes) -> None:
        try:
            await self._before_first_write()
            await self._platform.storage.put(key, data, Attributes("text/plain"))
        except (StorageError, RegistryError) as error:
            log("copy-not-stored", key=key, error=str(error))
