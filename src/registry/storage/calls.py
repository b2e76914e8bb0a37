"""How many R2 calls one invocation of the Worker may make (the setting R2_CALLS)."""

import math
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from registry.ports.platform import Platform
from registry.ports.storage import StoredObject

# Older accounts on Workers Paid have 1,000 subrequests an invocation; a tenth is left for calls that are tried again.
DEFAULT_CALLS = 900
MIN_CALLS, MAX_CALLS = 100, 10_000  # newer accounts on Workers Paid have 10,000
_DIGEST = re.compile(r":([0-9a-f]{4})[0-9a-f]*", re.ASCII)


class OutOfCalls(Exception):
    """What was asked for takes more calls than an invocation has."""


@dataclass(slots=True)
class Calls:
    """What an invocation may still ask of R2, and where its last listing stands."""

    left: int = DEFAULT_CALLS
    taken: int = 0
    last_key: str = ""

    def take(self, count: int = 1) -> None:
        """Before so many calls; raises OutOfCalls."""
        if self.left < count:
            raise OutOfCalls
        self.left -= count
        self.taken += count

    @property
    def needed(self) -> int:
        """About how many calls the work takes at least, after OutOfCalls.

        Digests are random, so that the place of the last one that was listed says which share of them was.
        """
        place = _DIGEST.search(self.last_key)
        share = 1.0 if place is None else (int(place[1], 16) + 1) / 0x10000
        return max(2 * (self.left + self.taken), math.ceil(self.taken / share / 100) * 100)

    @property
    def advice(self) -> str:
        """What to do after OutOfCalls."""
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
    """Everything below `prefix` in pages, a call each; or those of some `known` objects. Raises OutOfCalls."""
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
