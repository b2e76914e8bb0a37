"""Deletes manifests and tags (spec, "Deleting tags", "Deleting Manifests").

R2 has no conditional delete, but it has a conditional put. So the deletion of a manifest by its digest replaces the
manifest and each of its tags with a tombstone, an empty object, on the condition that the object did not change. A tag
that is pushed meanwhile stays. A push checks the manifest again after it wrote the tags, and writes everything again
when it finds a tombstone (`registry.content.manifest_push`). So either the push or the deletion wins as a whole.
Readers treat a tombstone as a missing object. Collections remove tombstones (`registry.upkeep.collection`), and a
concurrent push notices the collection.

A deletion by tag deletes the tag unconditionally, because such a request does not name a manifest.
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

CALLS = 900  # R2 calls that one request spends on tags: Workers Paid allows it 1,000
_ATTEMPTS = 3  # to delete a manifest that is pushed again meanwhile
_RETRY_AFTER = {"Retry-After": "1"}  # seconds

# Metadata keys of a tombstone. The replaced etag and the subject let a retry complete an interrupted deletion.
_REPLACED, _SUBJECT, _NONCE = "replaced", "subject", "nonce"


async def delete_tag(platform: Platform, name: RepositoryName, tag: Tag) -> bool:
    """Delete a tag; False when it does not exist."""
    if await manifests.find(platform, name, tag) is None:
        return False
    await platform.storage.delete([keys.manifest(name, tag)])
    return True


async def delete_manifest(platform: Platform, name: RepositoryName, digest: Digest) -> bool:
    """Delete a manifest, each of its tags, and its entry in the referrers list; False when none of them exists.

    A retry completes an interrupted deletion. Raises UNAVAILABLE when there are more tags than one request deletes.
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
    raise StorageBusy("other requests keep pushing the manifest while it is deleted")


async def entomb(platform: Platform, stored: StoredObject, only_if: str | NotAfter, subject: str = "") -> bool:
    """Replace an object with a tombstone; False when the object changed meanwhile. `subject`: a manifest's, or ""."""
    metadata = {_REPLACED: stored.etag, _SUBJECT: subject, _NONCE: platform.random_hex(8)}
    return (await platform.storage.put(stored.key, b"", Attributes(metadata=metadata), only_if=only_if)) is not None


async def _delete_tags(platform: Platform, name: RepositoryName, digest: Digest, etag: str) -> int:
    """Delete the tags of a manifest and return their number. Equal bytes have equal etags, so `etag` finds them.

    Raises UNAVAILABLE when there are more tags than one request deletes; a retry deletes the rest.
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
        message = "the manifest has more tags than one request can delete: send the request again to delete the rest"
        raise RegistryError(Problem.UNAVAILABLE, message, headers=_RETRY_AFTER) from None
    return count
