"""Deleting manifests and tags (spec, "Deleting tags", "Deleting Manifests").

R2 cannot delete under a condition, but it can put under one. So a manifest that is deleted by its digest, and each of
its tags, is replaced by a tombstone, an empty object, only if it is still what was to be deleted: a tag that is pushed
meanwhile stays. A push looks at the manifest once more when its tags are written, and writes all of it again where it
finds a tombstone (`registry.content.manifest_push`): the push or the deletion is wholly the later one. Collections
remove tombstones (`registry.upkeep.collection`), which a push that meets one notices; until then they are as good as
absent.

A tag that is deleted by its own name is just deleted: who asks for that says nothing of what it should lead to.
"""

import asyncio

from registry.content import manifests
from registry.content.listings import tag_pages
from registry.ports.platform import Platform
from registry.ports.storage import IN_FLIGHT, Attributes, NotAfter, StorageBusy, StoredObject
from registry.spec.errors import Problem, RegistryError
from registry.spec.names import Digest, RepositoryName, Tag
from registry.storage import keys
from registry.storage.calls import Calls, OutOfCalls

CALLS = 900  # R2 calls of one request for tags: it has 1,000 on Workers Paid
_ATTEMPTS = 3  # at a manifest that is pushed again while it is deleted
_RETRY_AFTER = {"Retry-After": "1"}  # seconds

# Metadata of a tombstone: which etag it replaced, and the subject, so that what broke off can be ended.
_REPLACED, _SUBJECT, _NONCE = "replaced", "subject", "nonce"


async def delete_tag(platform: Platform, name: RepositoryName, tag: Tag) -> bool:
    """Delete a tag; False when there is none."""
    if await manifests.find(platform, name, tag) is None:
        return False
    await platform.storage.delete([keys.manifest(name, tag)])
    return True


async def delete_manifest(platform: Platform, name: RepositoryName, digest: Digest) -> bool:
    """Delete a manifest, every tag that leads to it, and its entry among the referrers; False when there is none.

    Asked again after it broke off, it goes on. Raises UNAVAILABLE when there are more tags than one request deletes.
    """
    key = keys.manifest(name, digest)
    for _ in range(_ATTEMPTS):
        stored = await platform.storage.head(key)
        if stored is None:
            return False
        was_there = not manifests.is_tombstone(stored)
        if was_there:
            subject = await manifests.subject_of(platform, stored, digest)
            if not await entomb(platform, stored, stored.etag, subject):
                continue
            etag = stored.etag
        else:
            etag, subject = stored.metadata.get(_REPLACED, ""), stored.metadata.get(_SUBJECT, "")
        tags = await _delete_tags(platform, name, digest, etag)
        if subject:
            await manifests.delete_referrer(platform, name, digest, subject)
        return was_there or tags > 0
    raise StorageBusy("the manifest is pushed again and again while it is deleted")


async def entomb(platform: Platform, stored: StoredObject, only_if: str | NotAfter, subject: str = "") -> bool:
    """Replace an object by a tombstone; False when another one lies there now. `subject`: of a manifest, or ""."""
    metadata = {_REPLACED: stored.etag, _SUBJECT: subject, _NONCE: platform.random_hex(8)}
    return (await platform.storage.put(stored.key, b"", Attributes(metadata=metadata), only_if=only_if)) is not None


async def _delete_tags(platform: Platform, name: RepositoryName, digest: Digest, etag: str) -> int:
    """Delete the tags of a manifest: those with its bytes, which its etag says. Returns how many.

    Raises UNAVAILABLE when there are more than one request deletes; asked again, it goes on.
    """
    calls, count = Calls(CALLS), 0
    try:
        async for page in tag_pages(platform, name, None):
            calls.take()
            found = [tag for tag in page.tags if tag.etag == etag and tag.checksum in (None, digest)]
            for at in range(0, len(found), IN_FLIGHT):
                batch = found[at : at + IN_FLIGHT]
                calls.take(len(batch))
                await asyncio.gather(*(entomb(platform, tag, NotAfter(tag.uploaded)) for tag in batch))
            count += len(found)
    except OutOfCalls:
        message = "the manifest has more tags than one request deletes: ask again for the rest"
        raise RegistryError(Problem.UNAVAILABLE, message, headers=_RETRY_AFTER) from None
    return count
