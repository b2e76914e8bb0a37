"""The garbage collection register of a repository.

Through it, pushes and garbage collections notice each other (docs/garbage-collection.md). It is one small object, and
each change is a compare-and-swap on its etag. Each body has a new nonce: equal bodies would have equal etags, and would
hide a change between two reads.
"""

from dataclasses import dataclass, replace
from enum import Enum

from registry.ports.platform import Platform
from registry.ports.retries import NEVER, sent_by
from registry.ports.storage import ABSENT, Attributes, StorageError
from registry.spec.errors import Problem, RegistryError
from registry.spec.names import RepositoryName
from registry.storage import keys

LEASE_SECONDS = 120  # for which a run owns the register after it wrote it
# The one timing assumption: R2 applies a call that was sent before the lease ended within this many seconds.
MARGIN_SECONDS = 60
WAIT_SECONDS = 20.0  # that a push waits for the end of a sweep before it answers 503
FORGET_SECONDS = 24 * 3600  # after the end of the lease, an empty repository's register may be deleted
_POLL_SECONDS = 1.0
_RETRY_AFTER = {"Retry-After": "10"}  # seconds
_NONCE_BYTES = 8
_PUSHED = "pushed"  # metadata key
_NOTE_ATTEMPTS = 4


class Phase(Enum):
    """The phase of a collection. A repository without a register is idle."""

    IDLE = "idle"
    MARK = "mark"  # a run decides what is garbage
    ABORTED = "aborted"  # a push came during `mark`: the run has to decide again
    SWEEP = "sweep"  # a run deletes; pushes wait


@dataclass(frozen=True, slots=True)
class Register:
    """The register as it was read."""

    phase: Phase = Phase.IDLE
    run: str = ""
    lease: float = 0.0  # when the lease ends, in seconds since the epoch
    etag: str | None = None  # None: there is no register
    is_pushed: bool = False  # a client pushed to the repository while upstreams were configured (`note_push`)


async def read(platform: Platform, name: RepositoryName) -> Register:
    """Read the register."""
    stored = await platform.storage.head(keys.gc_register(name))
    if stored is None:
        return Register()
    try:
        metadata = stored.metadata
        is_pushed = _PUSHED in metadata
        return Register(Phase(metadata["phase"]), metadata["run"], float(metadata["lease"]), stored.etag, is_pushed)
    except (KeyError, ValueError):
        raise StorageError("the garbage collection register is damaged") from None


async def swap(platform: Platform, name: RepositoryName, seen: Register, phase: Phase, run: str) -> Register | None:
    """Write the register with a new lease, if nobody changed it since it was `seen`; None otherwise."""
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
    """Whether a new run may begin: no run is active, or the lease of the last run has expired."""
    margin = MARGIN_SECONDS if seen.phase is Phase.SWEEP else 0
    return seen.phase is Phase.IDLE or platform.now() > seen.lease + margin


async def note_push(platform: Platform, name: RepositoryName) -> bool:
    """Record that a client pushed to the repository, so that pull fallback no longer answers for it.

    Returns False when a sweep holds the register, or other writers were faster: the next push tries again.
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
    """Delete the register of an otherwise empty repository, if its lease ended at least a day ago.

    With `keep_pushed`, a register that records a push stays (`note_push`).

    A request that read "no register" earlier would not notice that one came and went; no request lives for a day. R2
    has no conditional delete, so this function first takes the register over.
    """
    seen = await read(platform, name)
    if platform.now() - seen.lease < FORGET_SECONDS or not may_take_over(platform, seen):
        return
    if keep_pushed and seen.is_pushed:
        return
    if await swap(platform, name, seen, Phase.SWEEP, seen.run) is not None:
        with sent_by(NEVER):  # no retry: it could delete a newer register
            await platform.storage.delete([keys.gc_register(name)])


async def interrupt(platform: Platform, name: RepositoryName) -> None:
    """Make a run in `mark` decide again, after a write that does not depend on the outcome (a copy)."""
    current = await read(platform, name)
    if current.phase is Phase.MARK:
        await swap(platform, name, current, Phase.ABORTED, current.run)


async def settle(platform: Platform, name: RepositoryName, seen: Register) -> tuple[Register, bool]:
    """Settle with a collection after a push wrote an object.

    `seen` is the register that the push relied on so far. A run in `mark` has to decide again; a sweep is waited for.
    Returns the register to rely on from now on, and whether it changed, so that the push must check again. Raises
    UNAVAILABLE when a sweep takes longer than WAIT_SECONDS.
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
                Problem.UNAVAILABLE, "garbage collection is running in this repository; try again", headers=_RETRY_AFTER
            )
        else:
            await platform.sleep(_POLL_SECONDS)
