"""What a repository has: its tags."""

from collections.abc import Sequence
from dataclasses import dataclass

from registry import keys
from registry.names import RepositoryName, Tag
from registry.platform import Platform
from registry.storage import MAX_LIST_KEYS

MAX_PAGE = 1_000  # tags of one answer; the rest is behind its Link


@dataclass(frozen=True, slots=True)
class TagPage:
    """Tags in the order of their bytes, and whether more follow."""

    tags: Sequence[Tag]
    more: bool


async def list_tags(platform: Platform, name: RepositoryName, count: int, last: str | None) -> TagPage | None:
    """Up to `count` tags after `last`; None when there is no such repository.

    Digests lie among the tags: the listing jumps over each of their ranges, so that its calls depend on the tags.
    """
    prefix = keys.manifests(name)
    after = None if last is None else prefix + last
    tags: list[Tag] = []
    is_known = False
    while len(tags) <= count:
        page = await platform.storage.list(prefix, start_after=after, limit=min(MAX_LIST_KEYS, count + 2))
        is_known = is_known or bool(page.objects)
        jumped = False
        for found in page.objects:
            reference = found.key.removeprefix(prefix)
            algorithm, colon, _ = reference.partition(":")
            if colon:
                # "~" sorts behind every encoded digest, and no tag contains ":".
                after, jumped = f"{prefix}{algorithm}:~", True
                break
            after = found.key
            tags.append(Tag(reference))
        if page.cursor is None and not jumped:
            break
    if not is_known and not await _has_manifests(platform, prefix, last):
        return None
    return TagPage(tags[:count], len(tags) > count)


async def _has_manifests(platform: Platform, prefix: str, last: str | None) -> bool:
    """Whether there is anything before what was listed."""
    return last is not None and bool((await platform.storage.list(prefix, limit=1)).objects)
