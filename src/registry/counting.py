"""A storage that notes in each request's record what it costs: R2's calls by price class."""

from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from registry.names import Digest
from registry.request_record import current
from registry.storage import (
    MAX_LIST_KEYS,
    NO_ATTRIBUTES,
    Attributes,
    ByteRange,
    Content,
    Listing,
    MultipartUpload,
    NotAfter,
    Source,
    Storage,
    StoredBody,
    StoredObject,
)

T = TypeVar("T")
_Call = Coroutine[Any, Any, T]


class CountingStorage:
    """`Storage` over another one. It passes that one's coroutines on: a count costs no turn of the loop."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def head(self, key: str) -> _Call[StoredObject | None]:
        _count_class_b()
        return self._storage.head(key)

    def get(self, key: str, byte_range: ByteRange | None = None) -> _Call[StoredBody | None]:
        _count_class_b()
        return self._storage.get(key, byte_range)

    def put(
        self,
        key: str,
        content: bytes | Source | Content,
        attributes: Attributes = NO_ATTRIBUTES,
        *,
        checksum: Digest | None = None,
        only_if: str | NotAfter | None = None,
    ) -> _Call[StoredObject | None]:
        _count_class_a()
        return self._storage.put(key, content, attributes, checksum=checksum, only_if=only_if)

    def delete(self, keys: Sequence[str]) -> _Call[None]:
        _count_free()
        return self._storage.delete(keys)

    def list(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        delimiter: str | None = None,
        cursor: str | None = None,
        limit: int = MAX_LIST_KEYS,
        with_metadata: bool = False,
    ) -> _Call[Listing]:
        _count_class_a()
        return self._storage.list(
            prefix,
            start_after=start_after,
            delimiter=delimiter,
            cursor=cursor,
            limit=limit,
            with_metadata=with_metadata,
        )

    def create_upload(self, key: str, attributes: Attributes = NO_ATTRIBUTES) -> _Call[MultipartUpload]:
        _count_class_a()
        return self._storage.create_upload(key, attributes)

    def upload_part(self, upload: MultipartUpload, number: int, content: Content | Source) -> _Call[str]:
        _count_class_a()
        return self._storage.upload_part(upload, number, content)

    def complete_upload(self, upload: MultipartUpload, etags: Sequence[str]) -> _Call[StoredObject]:
        _count_class_a()
        return self._storage.complete_upload(upload, etags)

    def abort_upload(self, upload: MultipartUpload) -> _Call[None]:
        _count_free()
        return self._storage.abort_upload(upload)


def _count_class_a() -> None:
    if (record := current.get()) is not None:
        record.class_a += 1


def _count_class_b() -> None:
    if (record := current.get()) is not None:
        record.class_b += 1


def _count_free() -> None:
    if (record := current.get()) is not None:
        record.free += 1
