"""Which of many names lie in a folder of the bucket: asked for one by one, or listed, whichever takes less."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping

from registry.ports.platform import Platform
from registry.ports.storage import IN_FLIGHT, StoredObject
from registry.storage import keys
from registry.storage.calls import Calls

# So many are asked for one by one, five at once: a listing would not be done sooner.
MAX_HEADS = 40
# A page of a listing costs as much as 12 heads (Class A and B), so pages have to tell of as many names on average.
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
    """What lies at each of the names, digests, in `folder`; in batches. Raises OutOfCalls.

    `cut_to`: the names are the first so many characters of digests, which only listings find.
    """
    storage, left = platform.storage, sorted(set(names))
    # A listing for one name costs as much as a page; but five of them run at once.
    worth = WORTH_A_PAGE if cut_to is None else IN_FLIGHT
    pages = told = 0  # so many pages told of so many names
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
