"""What there is: the tags of a repository, and the repositories."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from registry import keys
from registry.names import RepositoryName, Tag
from registry.permissions import Access, Permissions, allow
from registry.platform import Platform
from registry.storage import MAX_LIST_KEYS, StoredObject

MAX_PAGE = 1_000  # tags or names of one answer; the rest is behind its Link
TAG_CALLS = 45  # R2 calls of one page of tags: thousands of tombstones may lie between two
CATALOG_CALLS = 45  # R2 calls of one page: a request has 50 on the Free plan
# Segments of a name that the catalogue shows. A page begins with a call for each folder above where the last one ended:
# so that it gets further, there are fewer of them than calls.
CATALOG_DEPTH = 20


@dataclass(frozen=True, slots=True)
class TagPage:
    """Tags in the order of their bytes, and behind which more may follow."""

    tags: Sequence[Tag]
    last: Tag | None  # None on the last page


async def list_tags(platform: Platform, name: RepositoryName, count: int, last: str | None) -> TagPage | None:
    """Up to `count` tags after `last`; None when there is no such repository."""
    tags: list[Tag] = []
    is_known = False
    seen: Tag | None = None
    calls = 0
    async for page in tag_pages(platform, name, last, min(MAX_LIST_KEYS, count + 2)):
        is_known = is_known or page.has_manifests
        for found in page.tags:
            if len(tags) == count:
                return TagPage(tags, seen)
            seen = Tag(found.key.removeprefix(keys.manifests(name)))
            if found.size > 0:
                tags.append(seen)
        calls += 1
        if calls == TAG_CALLS:
            return TagPage(tags, seen)
    if not is_known and not await _has_manifests(platform, name, last):
        return None
    return TagPage(tags, None)


@dataclass(frozen=True, slots=True)
class StoredTags:
    """A page of a listing: the tags on it, tombstones among them (`registry.manifest_deletion`)."""

    tags: Sequence[StoredObject]
    has_manifests: bool  # anything at all, digests too


async def tag_pages(
    platform: Platform, name: RepositoryName, last: str | None, first_limit: int = MAX_LIST_KEYS
) -> AsyncIterator[StoredTags]:
    """Every tag after `last`, a call a page.

    Digests lie among the tags: the listing jumps over each of their ranges, so that its calls depend on the tags.
    """
    prefix = keys.manifests(name)
    after = None if last is None else prefix + last
    cursor: str | None = None
    limit = first_limit
    while True:
        begin = after if cursor is None else None
        page = await platform.storage.list(prefix, start_after=begin, cursor=cursor, limit=limit)
        cursor, limit = page.cursor, MAX_LIST_KEYS
        tags: list[StoredObject] = []
        jumped = False
        for found in page.objects:
            rest = found.key.removeprefix(prefix)
            if "/" in rest:
                continue  # of a repository that is named like this folder
            algorithm, colon, _ = rest.partition(":")
            if colon:
                # "~" sorts behind every encoded digest, and no tag contains ":".
                after, cursor, jumped = f"{prefix}{algorithm}:~", None, True
                break
            tags.append(found)
        yield StoredTags(tags, bool(page.objects))
        if cursor is None and not jumped:
            return


async def _has_manifests(platform: Platform, name: RepositoryName, last: str | None) -> bool:
    """Whether there is anything before what was listed."""
    return last is not None and bool((await platform.storage.list(keys.manifests(name), limit=1)).objects)


@dataclass(frozen=True, slots=True)
class RepositoryPage:
    """Names of repositories, and behind which folder more may follow."""

    names: Sequence[RepositoryName]
    last: str | None  # a name, or a folder of names; None on the last page


async def list_repositories(platform: Platform, count: int, last: str | None, visible: Permissions) -> RepositoryPage:
    """Up to `count` repositories behind `last` that may be pulled, fewer when the calls of one request are spent.

    Walks the keys as a tree, a call for each folder, so that the calls grow with repositories and not with blobs. The
    order is that of the keys: a name stands where `<name>/` sorts. Below a folder named as one of a repository's own
    (`blobs`, `manifests`, ...) nothing is looked for: docs/adr/0007.
    """
    walk = _Walk(platform, count, f"{last}/" if last else "", visible)
    if count:
        await walk.below("")
    return RepositoryPage(walk.names, walk.visited if walk.more else None)


async def next_repository(platform: Platform, before_call: Callable[[], None], after: str) -> RepositoryName | None:
    """The repository behind `after` in the catalogue's order, be there manifests or not; None behind the last one.

    `before_call` is called before each R2 call.
    """
    walk = _Walk(platform, 1, f"{after}/" if after else "", allow({Access.PULL}, "**"))
    walk.before_call = before_call
    walk.folders = keys.REPOSITORY_FOLDERS
    walk.stops_early = True
    await walk.below("")
    return walk.names[0] if walk.names else None


class _Walk:
    """Goes through the folders behind `after`."""

    def __init__(self, platform: Platform, count: int, after: str, visible: Permissions) -> None:
        self._platform = platform
        self._permissions = visible
        self._count = count
        self._after = after
        self._calls = 0
        self.names: list[RepositoryName] = []
        self.visited = after[:-1]
        self.more = False
        self.stops_early = False  # at the first name, without looking whether there are more
        self.before_call: Callable[[], None] = lambda: None
        self.folders = frozenset({"manifests"})  # what makes a folder a repository

    async def below(self, folder: str) -> None:
        """Visit what lies below `folder`, itself included; its name ends with "/", the root has none."""
        cursor: str | None = ""
        while cursor is not None:
            if self._calls == CATALOG_CALLS:
                self.more = True
                return
            self._calls += 1
            self.before_call()
            page = await self._platform.storage.list(folder, delimiter="/", cursor=cursor or None)
            cursor = page.cursor
            is_repository = any(f"{folder}{one}/" in page.prefixes for one in self.folders)
            if folder > self._after and is_repository and Access.PULL in self._permissions.on(folder[:-1]):
                if len(self.names) == self._count:
                    self.more = True
                    return
                self.names.append(RepositoryName(folder[:-1]))
                if self.stops_early:
                    self.more = True
                    return
            if folder > self._after:
                self.visited = folder[:-1]
            for child in page.prefixes:
                if self._is_ahead(folder, child):
                    await self.below(child)
                if self.more:
                    return

    def _is_ahead(self, folder: str, child: str) -> bool:
        """Whether `child` may hold repositories that were not listed yet."""
        segment = child[len(folder) : -1]
        if child.count("/") > CATALOG_DEPTH:
            return False
        if segment.startswith(keys.OURS) or (folder and segment in keys.REPOSITORY_FOLDERS):
            return False
        if not self._permissions.may_pull_below(child[:-1]):
            return False
        return child > self._after or self._after.startswith(child)
