"""Pushes a manifest with its tags, consistently with concurrent deletions and garbage collections.

A push goes through these states; docs/garbage-collection.md has the same for a collection::

    begin     read the register, then check that everything exists that the manifest refers to      -> write
    write     write the manifest under its digest, then the tags; later only the missing ones       -> look
    look      read the register. It is unchanged since the last read, and the manifest exists       -> done
              it is unchanged, but the manifest was deleted meanwhile                               -> write
              it changed: a collection ran, or another push of the same manifest is taken back      -> check
    check     everything that existed at the beginning and everything written exists                -> done
              an object that this push wrote is missing                                             -> write
              content that the manifest refers to is missing                                        -> take back
    take back hold the register. It changed since the last read                                     -> look
              all content exists after all, because another push wrote it                           -> check
              replace what this push wrote with tombstones, release the register                    -> refused

The manifest goes through these states first alone, then with its tags: so no tag names a manifest that may be refused.
"""

import asyncio
from collections.abc import Sequence

from registry.content import gc_register, manifest_checks, manifests
from registry.content.gc_register import MARGIN_SECONDS, Phase
from registry.content.manifest_deletion import entomb
from registry.content.manifests import Received
from registry.ports.platform import Platform
from registry.ports.retries import sent_by
from registry.ports.storage import NotAfter, StorageBusy, StoredObject
from registry.spec.errors import RegistryError
from registry.spec.names import Digest, Reference, RepositoryName, Tag
from registry.storage.calls import Calls
from registry.telemetry.log import log

# Seconds. A manifest put this recently is not put again: R2 takes one write a second to a key, and clients push several
# tags of a manifest within a second.
FRESH = 300
_ATTEMPTS = 8  # while other requests delete or collect what this push writes; a collection gives up after four
_RUN_BYTES = 16


async def put(
    platform: Platform, name: RepositoryName, received: Received, tags: Sequence[Tag], *, sparse: bool, r2_calls: int
) -> None:
    """Store a manifest and its tags. A check of what it refers to may take `r2_calls` calls.

    Raises MANIFEST_BLOB_UNKNOWN, with nothing stored, when the manifest refers to missing content and may not be
    `sparse`.
    """
    push = Push(platform, name, received, sparse=sparse, r2_calls=r2_calls)
    is_fresh = await push.begin()
    digest = received.digest
    await push.settle([] if is_fresh else [digest], [digest])
    if tags:
        await push.settle(tags, [digest, *tags])


class Push:
    """One push, with the register and the content that it relies on."""

    def __init__(
        self, platform: Platform, name: RepositoryName, received: Received, *, sparse: bool, r2_calls: int
    ) -> None:
        self._platform = platform
        self._name = name
        self._received = received
        self._is_sparse = sparse
        self._r2_calls = r2_calls
        self._register = gc_register.Register()  # as last read
        self.present = frozenset[Digest]()  # existing content of the manifest: if any goes, the push is refused
        self._was_there = False

    async def begin(self) -> bool:
        """Check the manifest's references; return whether it was put so recently that it need not be put again."""
        # The register comes first, not concurrently: the checks are valid only if no collection ran since it was read.
        self._register = await gc_register.read(self._platform, self._name)
        stored, self.present = await asyncio.gather(self._find(self._received.digest), self._check())
        self._received = self._received.typed_as(stored)
        self._was_there = stored is not None
        is_fresh = stored is not None and self._platform.now() - stored.uploaded <= FRESH
        if is_fresh and self._received.manifest.subject is not None:
            await manifests.put_referrer(self._platform, self._name, self._received)
        return is_fresh

    async def settle(self, first: Sequence[Reference], everything: Sequence[Reference]) -> None:
        """Write `first`, and whatever other requests delete of `everything`, until all of it stays.

        `everything` begins with the digest.
        """
        platform, name = self._platform, self._name
        to_write = first
        for _ in range(_ATTEMPTS):
            for reference in to_write:
                await manifests.store(platform, name, self._received, reference)
            # A collection that begins after this sees the written objects; one that is running may have missed them.
            self._register, is_changed = await gc_register.settle(platform, name, self._register)
            if is_changed and not await self._is_whole(everything):
                to_write = []
                continue
            # A concurrent deletion of the manifest (registry.content.manifest_deletion) may have missed our tags.
            if not is_changed and (len(everything) == 1 or await self._find(everything[0]) is not None):
                return
            to_write = await self._missing(everything)
            if not to_write:
                return  # all of it existed before the last read of the register: later collections see it
        raise StorageBusy("other requests keep deleting the manifest while it is pushed")

    async def _find(self, reference: Reference) -> StoredObject | None:
        return await manifests.find(self._platform, self._name, reference)

    async def _missing(self, everything: Sequence[Reference]) -> list[Reference]:
        """Return the missing references; if the manifest was deleted, also its tags, except those moved meanwhile."""
        found = [await self._find(reference) for reference in everything]
        digest, is_deleted = self._received.digest, found[0] is None
        return [
            reference
            for reference, stored in zip(everything, found, strict=True)
            if stored is None or (is_deleted and manifests.digest_of(stored, reference) == digest)
        ]

    async def _check(self) -> frozenset[Digest]:
        manifest = self._received.manifest
        calls = Calls(self._r2_calls)
        return await manifest_checks.check(self._platform, self._name, manifest, calls, sparse=self._is_sparse)

    async def _refusal(self) -> RegistryError | None:
        """Return why the push must be refused: content that existed at its beginning is gone. None if it is not."""
        try:
            gone = self.present - await self._check()
        except RegistryError as error:
            return error
        return manifest_checks.unknown(gone) if gone else None

    async def _is_whole(self, written: Sequence[Reference]) -> bool:
        """Check the content again; False when the register must be read again first.

        Raises the refusal after the written objects were taken back.
        """
        if await self._refusal() is None:
            return True
        # Hold the register like a collection of this manifest: other pushes of it wait, and check afterwards.
        platform, name = self._platform, self._name
        held = await gc_register.swap(platform, name, self._register, Phase.SWEEP, platform.random_hex(_RUN_BYTES))
        if held is None:
            return False
        refusal, ours_until = await self._refusal(), held.lease - MARGIN_SECONDS
        is_in_time = platform.now() < ours_until
        if refusal is not None and is_in_time:
            with sent_by(ours_until):
                await self._take_back(written)
        released = await gc_register.swap(platform, name, held, Phase.IDLE, held.run)
        if refusal is not None and is_in_time:
            raise refusal
        if refusal is None and released is not None:
            self._register = released
            return True
        return False

    async def _take_back(self, written: Sequence[Reference]) -> None:
        """Replace the written manifest and tags with tombstones, unless another request put them again."""
        digest, subject = self._received.digest, self._received.manifest.subject
        for reference in written:
            if reference == digest and self._is_sparse and self._was_there:
                continue  # an earlier push stored it without its blobs, as sparse manifests may be
            stored = await self._find(reference)
            if stored is not None and manifests.digest_of(stored, reference) == digest:
                of = "" if subject is None or reference != digest else str(subject.digest)
                await entomb(self._platform, stored, NotAfter(stored.uploaded), of)
                if of:
                    await manifests.delete_referrer(self._platform, self._name, digest, of)
        log("push-taken-back", repository=self._name, digest=str(digest))
