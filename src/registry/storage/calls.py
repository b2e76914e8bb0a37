"""The limit of R2 calls that one invocation of the Worker may make (the setting R2_CALLS)."""

import math
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from registry.ports.platform import Platform
from registry.ports.storage import StoredObject

# Older accounts on Workers Paid have 1,000 subrequests an invocation; a tenth is left for retries.
DEFAULT_CALLS = 900
MIN_CALLS, MAX_CALLS = 100, 10_000  # newer accounts on Workers Paid have 10,000
_DIGEST = re.compile(r":([0-9a-f]{4})[0-9a-f]*", re.ASCII)


class OutOfCalls(Exception):
    """The work needs more R2 calls than an invocation may make."""


@dataclass(slots=True)
class Calls:
    """The R2 calls that an invocation has left and has made, and the last key that it listed."""

    left: int = DEFAULT_CALLS
    taken: int = 0
    last_key: str = ""

    def take(self, count: int = 1) -> None:
        """Count calls before they are sent. Raises OutOfCalls when fewer are left."""
        if self.left < count:
            raise OutOfCalls
        self.left -= count
        self.taken += count

    @property
    def needed(self) -> int:
        """After OutOfCalls: an estimate of the calls that the work needs at least.

        Digests are random, so the place of the last listed digest shows which share of them was listed.
        """
        place = _DIGEST.search(self.last_key)
        share = 1.0 if place is None else (int(place[1], 16) + 1) / 0x10000
        return max(2 * (self.left + self.taken), math.ceil(self.taken / share / 100) * 100)

    @property
    def advice(self) -> str:
        """After OutOfCalls: a sentence that says what to do."""
        limit, needed = self.left + self.taken, self.needed
        fits = f"set R2_CALLS to {needed}" if needed <= MAX_CALLS else f"more than the {MAX_CALLS} that are possible"
        return f"it takes about {needed} R2 calls at least, and R2_CALLS is {limit}: {fits}"


async def pages(
    platform: Platform,
    calls: Calls,
    prefix: str,
    known: Sequence[StoredObject] | None = None,
    *,
    with_metadata: bool = False,
) -> AsyncIterator[Sequence[StoredObject]]:
    """All objects below `prefix`, in pages of one call each; with `known`, those among them. Raises OutOfCalls."""
    if known is not None:
        yield [found for found in known if found.key.startswith(prefix)]
        return
    cursor: str | None = None
    while True:
        calls.take()
        page = await platform.storage.list(prefix, cursor=cursor, with_metadata=with_metadata)
        if page.objects:
            calls.last_key = page.objects[-1].key
            yield page.objects
        cursor = page.cursor
        if cursor is None:
            return
