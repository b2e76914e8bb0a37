"""Pushing a manifest with its tags, so that neither a deletion nor a collection of garbage tears them apart.

A push is in one of these states; the table of docs/garbage-collection.md has the other side, the collection's::

    begin     look at the register, then whether everything is there that the manifest refers to    -> write
    write     the manifest under its digest, then the tags; later what is missing of them           -> look
    look      at the register. Nobody changed it since the last look, the manifest is there         -> done
              nobody changed it, but the manifest was deleted meanwhile                             -> write
              somebody collected garbage, or takes another push of the same back                    -> check
    check     what was there at the beginning is there, and all that was written                    -> done
              something that was written is missing                                                 -> write
              something that the manifest refers to is gone                                         -> take back
    take back hold the register; somebody changed it since the last look                            -> look
              everything is there after all: another push brought it                                -> check
              put tombstones where the manifest was written, and give the register back             -> refused

First the manifest goes through them alone, then with its tags: no tag leads to what may yet be refused.
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

# Seconds. A manifest put this recently is not put again: two tags pushed in one second would make its key hot.
FRESH = 300
_ATTEMPTS = 8  # at what others delete or collect again and again; a collection gives up after four
_RUN_BYTES = 16


async def put(
    platform: Platform, name: RepositoryName, received: Received, tags: Sequence[Tag], *, sparse: bool, r2_calls: int
) -> None:
    """Store a manifest and its tags, looking with so many calls for what it refers to.

    Raises MANIFEST_BLOB_UNKNOWN, with nothing stored, when it refers to something that is not there; unless it may be
    `sparse`.
    """
    push = Push(platform, name, received, sparse=sparse, r2_calls=r2_calls)
    is_fresh = await push.begin()
    digest = received.digest
    await push.settle([] if is_fresh else [digest], [digest])
    if tags:
        await push.settle(tags, [digest, *tags])


class Push:
    """One push, and what it relies on."""

    def __init__(
        self, platform: Platform, name: RepositoryName, received: Received, *, sparse: bool, r2_calls: int
    ) -> None:
        self._platform = platform
        self._name = name
        self._received = received
        self._is_sparse = sparse
        self._r2_calls = r2_calls
        self._register = gc_register.Register()  # as it was at the last look
        self.present = frozenset[Digest]()  # of what the manifest refers to: it stays, or the push is refused
        self._was_there = False

    async def begin(self) -> bool:
        """Look for the first time; whether the manifest was put so recently that it need not be put again."""
        # Before everything else, not beside it: what is seen now is worth something if nothing was collected since.
        self._register = await gc_register.read(self._platform, self._name)
        stored, self.present = await asyncio.gather(self._find(self._received.digest), self._check())
        self._received = self._received.typed_as(stored)
        self._was_there = stored is not None
        is_fresh = stored is not None and self._platform.now() - stored.uploaded <= FRESH
        if is_fresh and self._received.manifest.subject is not None:
            await manifests.put_referrer(self._platform, self._name, self._received)
        return is_fresh

    async def settle(self, first: Sequence[Reference], everything: Sequence[Reference]) -> None:
        """Write `first`, and what others delete of `everything`, until it stays. The digest stands first."""
        platform, name = self._platform, self._name
        to_write = first
        for _ in range(_ATTEMPTS):
            for reference in to_write:
                await manifests.store(platform, name, self._received, reference)
            # From here on a run that begins sees what was written; one that went on meanwhile may have decided without.
            self._register, is_changed = await gc_register.settle(platform, name, self._register)
            if is_changed and not await self._is_whole(everything):
                to_write = []
                continue
            # Who deletes the manifest meanwhile (registry.manifest_deletion) may have seen our tags, or not.
            if not is_changed and (len(everything) == 1 or await self._find(everything[0]) is not None):
                return
            to_write = await self._missing(everything)
            if not to_write:
                return  # it was there before the last look: who decides from there on sees it
        raise StorageBusy("the manifest is deleted again and again while it is pushed")

    async def _find(self, reference: Reference) -> StoredObject | None:
        return await manifests.find(self._platform, self._name, reference)

    async def _missing(self, everything: Sequence[Reference]) -> list[Reference]:
        """What is not there; all of it, if the manifest was deleted, but for tags that somebody moved since."""
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
        """Why the push is refused: what was there at its beginning is not there any more."""
        try:
            gone = self.present - await self._check()
        except RegistryError as error:
            return error
        return manifest_checks.unknown(gone) if gone else None

    async def _is_whole(self, written: Sequence[Reference]) -> bool:
        """Check; False when the register has to be looked at again first. Raises the refusal, all taken back."""
        if await self._refusal() is None:
            return True
        # As a collection of this one manifest: other pushes of it wait, and then check.
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
        """Put tombstones where the manifest lies, unless it was put again since."""
        digest, subject = self._received.digest, self._received.manifest.subject
        for reference in written:
            if reference == digest and self._is_sparse and self._was_there:
                continue  # somebody pushed it without its blobs, and may
            stored = await self._find(reference)
            if stored is not None and manifests.digest_of(stored, reference) == digest:
                of = "" if subject is None or reference != digest else str(subject.digest)
                await entomb(self._platform, stored, NotAfter(stored.uploaded), of)
                if of:
                    await manifests.delete_referrer(self._platform, self._name, digest, of)
        log("push-taken-back", repository=self._name, digest=str(digest))
