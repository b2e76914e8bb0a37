"""The format of the bucket. A bucket in serverless-registry's format is served, but nothing is deleted from it."""

import json

from registry.ports.platform import Platform
from registry.ports.storage import ABSENT, Attributes
from registry.storage import keys

FORMAT_VERSION = 1


async def is_ours(platform: Platform) -> bool:
    """Whether the bucket is in this registry's format."""
    return await platform.storage.head(keys.FORMAT) is not None


async def note_if_empty(platform: Platform) -> None:
    """Mark an empty bucket as being in this registry's format."""
    if not (await platform.storage.list("", limit=1)).objects:
        await note(platform)


async def note(platform: Platform) -> None:
    """Mark the bucket as being in this registry's format."""
    attributes = Attributes("application/json", {"nonce": platform.random_hex(8)})
    await platform.storage.put(
        keys.FORMAT, json.dumps({"version": FORMAT_VERSION}).encode(), attributes, only_if=ABSENT
    )
