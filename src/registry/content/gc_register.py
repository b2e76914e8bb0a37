"""The register of a repository: how a push and a collection of garbage notice each other (docs/garbage-collection.md).

One small object. Every change is a compare-and-swap on its etag, of a body with a fresh nonce: two equal bodies would
have equal etags, and a change between two looks go unseen.
"""

from dataclasses import dataclass, replace
from enum import Enum

from registry.ports.platform import Platform
from registry.ports.retries import NEVER, sent_by
from registry.ports.storage import ABSENT, Attributes, StorageError
from registry.spec.errors import Problem, RegistryError
from registry.spec.names import RepositoryName
from registry.storage import keys

LEASE_SECONDS = 120  # for which a run owns the register since it last wrote it
# The one assumption about time: a call that was sent before its run's lease ended lands within this many seconds.
MARGIN_SECONDS = 60
WAIT_SECONDS = 20.0  # that a push waits for the end of a sweep, then 503
FORGET_SECONDS = 24 * 3600  # since a lease ended, after which an empty repository loses its register
_POLL_SECONDS = 1.0
_RETRY_AFTER = {"Retry-After": "10"}  # seconds
_NONCE_BYTES = 8
_PUSHED = "pushed"  # metadata
_NOTE_ATTEMPTS = 4


class Phase(Enum):
    """What goes on. An absent register is idle."""

    IDLE = "idle"
    MARK = "mark"  # a run decides what is garbage
    ABORTED = "aborted"  # a push that came meanwhile says: decide again
    SWEEP = "sweep"  # a run deletes; pushes wait


@dataclass(frozen=True, slots=True)
class Register:
    """The register as it was read."""

    phase: Phase = Phase.IDLE
    run: str = ""
    lease: float = 0.0  # its end, in seconds since the epoch
    etag: str | None = None  # None: absent
    is_pushed: bool = False  # somebody pushed to the repository while there were upstreams (`note_push`)


async def read(platform: Platform, name: RepositoryName) -> Register:
    """Look at the register."""
    stored = await platform.storage.head(keys.gc_register(name))
    if stored is None:
        return Register()
    try:
        metadata = stored.metadata
        is_pushed = _PUSHED in metadata
        return Register(Phase(metadata["phase"]), metadata["run"], float(metadata["lease"]), stored.etag, is_pushed)
    except (KeyError, ValueError):
        raise StorageError("a register of garbage collection is damaged") from None


async def swap(platform: Platform, name: RepositoryName, seen: Register, phase: Phase, run: str) -> Register | None:
    """Write the register with a new lease, if it is still as it was `seen`; None when it is not."""
    nonce = platform.random_hex(_NONCE_BYTES)
    lease = platform.now() + LEASE_SECONDS
    metadata = {"phase": phase.value, "run": run, "lease": str(lease), "nonce": nonce}
    if seen.is_pushed:
        metadata[_PUSHED] = "true"
    condition = ABSENT if seen.etag is None else seen.etag
    key = keys.gc_register(name)
    stored = await platform.storage.put(key, nonce.encode(), Attributes(metadata=metadata), only_if=condition)
    return None if stored is None else Register(phase, run, lease, stored.etag, seen.is_pushed)


def may_take_over(platform: Platform, seen: Register) -> bool:
    """Whether a run may begin: there is none, or it is over its time."""
    margin = MARGIN_SECONDS if seen.phase is Phase.SWEEP else 0
    return seen.phase is Phase.IDLE or platform.now() > seen.lease + margin


async def note_push(platform: Platform, name: RepositoryName) -> bool:
    """Note that the repository is not only a copy of another registry's: pull fallback no longer answers for it.

    False when a sweep goes on, whose register it is, or others are faster: the next push tries again.
    """
    for _ in range(_NOTE_ATTEMPTS):
        seen = await read(platform, name)
        if seen.is_pushed:
            return True
        if seen.phase is Phase.SWEEP and not may_take_over(platform, seen):
            return False
        phase = Phase.ABORTED if seen.phase is Phase.SWEEP else seen.phase
        if await swap(platform, name, replace(seen, is_pushed=True), phase, seen.run) is not None:
            return True
    return False


async def remove(platform: Platform, name: RepositoryName, *, keep_pushed: bool) -> None:
    """Delete the register of a repository that has nothing else, if nobody wrote it for a day.

    With `keep_pushed`, one that says that somebody pushed here stays (`note_push`).

    Who saw an older register would take its absence for that of then: no request lives so long. R2 deletes under no
    condition, so the register is taken over first.
    """
    seen = await read(platform, name)
    if platform.now() - seen.lease < FORGET_SECONDS or not may_take_over(platform, seen):
        return
    if keep_pushed and seen.is_pushed:
        return
    if await swap(platform, name, seen, Phase.SWEEP, seen.run) is not None:
        with sent_by(NEVER):  # a second attempt could delete a newer register
            await platform.storage.delete([keys.gc_register(name)])


async def interrupt(platform: Platform, name: RepositoryName) -> None:
    """For what may as well be collected, if that is decided: a run that decides shall know of it."""
    current = await read(platform, name)
    if current.phase is Phase.MARK:
        await swap(platform, name, current, Phase.ABORTED, current.run)


async def settle(platform: Platform, name: RepositoryName, seen: Register) -> tuple[Register, bool]:
    """For a push that wrote something: what it may rely on from here, and whether it has to look at everything again.

    `seen` is what it relied on so far. A run that decides is told to decide again; the end of a sweep is waited for.
    Raises UNAVAILABLE when that takes too long.
    """
    began = platform.now()
    while True:
        current = await read(platform, name)
        if current.phase in (Phase.IDLE, Phase.ABORTED):
            return current, current.etag != seen.etag
        if current.phase is Phase.MARK or may_take_over(platform, current):
            aborted = await swap(platform, name, current, Phase.ABORTED, current.run)
            if aborted is not None:
                return aborted, True
        elif platform.now() - began >= WAIT_SECONDS:
            raise RegistryError(
                Problem.UNAVAILABLE, "garbage of this repository is being collected; try again", headers=_RETRY_AFTER
            )
        else:
            await platform.sleep(_POLL_SECONDS)
