"""A bucket with very many images, computed while it is listed, so that its keys are never all in memory."""

import base64
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Unpack

from registry.ports.storage import MAX_LIST_KEYS, Listing, ListOptions, StoredObject
from registry.spec.names import Digest
from tests.fakes.r2 import FakeR2

NAME = "team/app"
_SPREAD = 0x9E3779B97F4A7C15  # odd, hence coprime to 2^64
_PRIME = 15_485_863  # stride of the references over the blobs
_MASK = 2**64 - 1


def _hex(number: int, count: int) -> str:
    """The hex digest number `number` of `count`, in ascending order."""
    return f"{number * (2**64 // count):016x}" + f"{(number + 1) * _SPREAD & _MASK:016x}" * 3


class ManyImages(FakeR2):
    """Day-old images, each with a tag and `layers` blobs of its own, and `orphans` blobs without a reference."""

    def __init__(self, now: Callable[[], float], images: int, layers: int, orphans: int) -> None:
        super().__init__(now)
        self._images, self._layers = images, layers
        self._blobs = images * layers + orphans
        self.size = self._blobs + 2 * images
        self._deleted: set[str] = set()

    def _key(self, at: int) -> str:
        """The key number `at` in order: blobs, manifests, tags."""
        if at < self._blobs:
            return f"{NAME}/blobs/sha256:{_hex(at, self._blobs)}"
        at -= self._blobs
        if at < self._images:
            return f"{NAME}/manifests/sha256:{_hex(at, self._images)}"
        return f"{NAME}/manifests/tag-{at - self._images:07}"

    def _object(self, at: int, *, with_metadata: bool) -> StoredObject:
        key, uploaded = self._key(at), self._now() - 86_400
        if at < self._blobs:
            return StoredObject(key, 1_000, "b" * 32, uploaded, None, {}, Digest("sha256", key[-64:]))
        image = (at - self._blobs) % self._images
        checksum = Digest("sha256", _hex(image, self._images))
        metadata = {"hasSubject": "false", "references": self._references(image)} if with_metadata else {}
        return StoredObject(key, 5_000, checksum.hex[:32], uploaded, None, metadata, checksum)

    def _references(self, image: int) -> str:
        first = image * self._layers
        numbers = (layer * _PRIME % self._blobs for layer in range(first, first + self._layers))
        raw = b"".join(bytes.fromhex(_hex(number, self._blobs)[:24]) for number in numbers)
        return base64.urlsafe_b64encode(raw).decode() + "."

    async def list(self, prefix: str, **options: Unpack[ListOptions]) -> Listing:
        """Compute a page; delimiters are not supported."""
        assert options.get("delimiter") is None
        with_metadata = options.get("with_metadata", False)
        await self._call("list", prefix)
        self.usage.class_a += 1
        room = min(
            options.get("limit", MAX_LIST_KEYS), self.page, *([self.page_with_metadata] if with_metadata else [])
        )
        every = range(self.size)
        at = bisect_left(every, prefix, key=self._key)
        after = options.get("cursor") or options.get("start_after")
        if after is not None:
            at = max(at, bisect_right(every, after, key=self._key))
        objects: list[StoredObject] = []
        while at < self.size and self._key(at).startswith(prefix):
            if len(objects) == room:
                return Listing(objects, [], objects[-1].key)
            if self._key(at) not in self._deleted:
                objects.append(self._object(at, with_metadata=with_metadata))
            at += 1
        return Listing(objects, [], None)

    async def delete(self, keys: Sequence[str]) -> None:
        """Record the keys as deleted."""
        await super().delete(keys)
        self._deleted.update(keys)
