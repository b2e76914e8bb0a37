"""Lists the tags of a repository, and the repositories."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from registry.access.permissions import Permissions
from registry.ports.platform import Platform
from registry.ports.storage import MAX_LIST_KEYS, StoredObject
from registry.spec.endpoints import Access
from registry.spec.names import RepositoryName, Tag
from registry.storage import keys
from registry.storage.calls import Calls, OutOfCalls
from registry.storage.walk import Walk

MAX_PAGE = 1_000  # tags or names in one answer; its Link leads to the rest


@dataclass(frozen=True, slots=True)
class TagPage:
    """Tags in byte order. `last` is where the next page begins."""

    tags: Sequence[Tag]
    last: Tag | None  # None on the last page


async def list_tags(
    platform: Platform, name: RepositoryName, count: int, last: str | None, calls: Calls
) -> TagPage | None:
    """List up to `count` tags after `last`, fewer when the R2 calls run out; None when the repository is unknown."""
    tags: list[Tag] = []
    is_known = False
    seen: Tag | None = None
    async for page in tag_pages(platform, name, last, min(MAX_LIST_KEYS, count + 2)):
        is_known = is_known or page.has_manifests
        for found in page.tags:
            if len(tags) == count:
                return TagPage(tags, seen)
            seen = Tag(found.key.removeprefix(keys.manifests(name)))
            if found.size > 0:
                tags.append(seen)
        calls.left -= 1
        if calls.left <= 0 and seen is not None:
            return TagPage(tags, seen)  # thousands of tombstones may lie between two tags
    if not is_known and not await _has_manifests(platform, name, last):
        return None
    return TagPage(tags, None)


@dataclass(frozen=True, slots=True)
class StoredTags:
    """The tags on a page of R2's listing, including tombstones (`registry.content.manifest_deletion`)."""

    tags: Sequence[StoredObject]
    has_manifests: bool  # the page has any object: a tag or a digest


async def tag_pages(
    platform: Platform, name: RepositoryName, last: str | None, first_limit: int = MAX_LIST_KEYS
) -> AsyncIterator[StoredTags]:
    """Yield every tag after `last`, with one R2 call for each page.

    Digests sort among the tags. The listing skips each algorithm's digests, so its cost depends on the tags only.
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
                continue  # belongs to a repository whose name contains "/manifests/"
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
    """Whether the repository has manifests or tags up to `last`, which the listing did not cover."""
    return last is not None and bool((await platform.storage.list(keys.manifests(name), limit=1)).objects)


@dataclass(frozen=True, slots=True)
class RepositoryPage:
    """Names of repositories. `position` is where the next page begins."""

    names: Sequence[RepositoryName]
    position: str | None  # of the walk; None on the last page
    is_full: bool = False  # the position follows the last name; else it is where the R2 calls ran out


async def list_repositories(
    platform: Platform, count: int, position: str, visible: Permissions, calls: Calls
) -> RepositoryPage:
    """List up to `count` repositories after `position` that may be pulled, fewer when the R2 calls run out.

    They are in the order of their keys: a name sorts as `<name>/`.
    """
    names: list[RepositoryName] = []
    walk = Walk(platform, calls, position, visible.may_pull_below)
    try:
        while count and (found := await walk.next()) is not None:
            if "manifests" in found.has and Access.PULL in visible.on(found.name):
                if len(names) == count:
                    return RepositoryPage(names, f"{names[-1]}/", is_full=True)
                names.append(found.name)
    except OutOfCalls:
        return RepositoryPage(names, walk.position)
    return RepositoryPage(names, None)
