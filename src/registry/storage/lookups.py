"""Finds which of many names exist in a folder of the bucket, by single heads or by listing, whichever is cheaper."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping

from registry.ports.platform import Platform
from registry.ports.storage import IN_FLIGHT, StoredObject
from registry.storage import keys
from registry.storage.calls import Calls

# Up to this number of names takes single heads, five at once: a listing would not be faster.
MAX_HEADS = 40
# A page of a listing costs as much as 12 heads (Class A and B), so a page must decide 12 names on average.
WORTH_A_PAGE = 12


async def look_up(
    platform: Platform,
    folder: str,
    names: Collection[str],
    calls: Calls,
    *,
    cut_to: int | None = None,
    with_metadata: bool = True,
) -> AsyncIterator[Mapping[str, StoredObject | None]]:
    """The object at each of `names`, which are digests, in `folder`; None if missing. In batches. Raises OutOfCalls.

    `cut_to`: the names are digests cut to this number of characters, which only listings can find.
    """
    storage, left = platform.storage, sorted(set(names))
    # With `cut_to` a single look is a listing, too, and costs as much as a page; but five of them run at once.
    worth = WORTH_A_PAGE if cut_to is None else IN_FLIGHT
    pages = told = 0  # pages that were listed, and names that they decided
    is_listed = cut_to is not None or len(left) > MAX_HEADS
    while left:
        if (is_listed and told >= pages * worth) or len(left) > calls.left:
            calls.take()
            start = keys.just_before(folder + left[0])
            page = await storage.list(folder, start_after=start, with_metadata=with_metadata)
            stored = {found.key.removeprefix(folder)[:cut_to]: found for found in page.objects}
            last = page.objects[-1].key if page.objects else ""
            count = len(left) if page.cursor is None else sum(folder + name <= last for name in left)
            pages, told = pages + 1, told + count
            batch, left = left[:count], left[count:]
            yield {name: stored.get(name) for name in batch}
        else:
            batch, left = left[:IN_FLIGHT], left[IN_FLIGHT:]
            calls.take(len(batch))
            look = storage.head if cut_to is None else _first(platform, with_metadata=with_metadata)
            answers = await asyncio.gather(*(look(folder + name) for name in batch))
            yield dict(zip(batch, answers, strict=True))


def _first(platform: Platform, *, with_metadata: bool) -> Callable[[str], Awaitable[StoredObject | None]]:
    async def look(prefix: str) -> StoredObject | None:
        page = await platform.storage.list(prefix, limit=1, with_metadata=with_metadata)
        return page.objects[0] if page.objects else None

    return look
