"""Implements `registry.ports.storage.Storage` with the raw R2 binding.

The SDK's wrapper of the binding is not used, because it handles every byte of a buffer in Python (docs/adr/0009).
"""

import contextlib
import re
from collections.abc import Sequence
from typing import Any, Unpack

import js
from pyodide.ffi import JsException, jsnull, to_js

from registry.cloudflare.streams import JsSource
from registry.ports.storage import (
    ABSENT,
    MAX_LIST_KEYS,
    NO_ATTRIBUTES,
    Attributes,
    ChecksumMismatch,
    ClientGone,
    Content,
    Listing,
    ListOptions,
    MultipartUpload,
    NotAfter,
    PartChanged,
    PutOptions,
    Source,
    StorageBusy,
    StorageError,
    StoredBody,
    StoredObject,
    UploadGone,
)
from registry.spec.names import ALGORITHMS, Digest
from registry.spec.ranges import ByteRange

# R2 reports its error code only within the message: "put: The checksum ... (10037)".
_CODE = re.compile(r"\((\d{5})\)")
_ERRORS: dict[str, type[StorageError]] = {
    "10024": UploadGone,
    "10025": PartChanged,
    "10037": ChecksumMismatch,
    "10058": StorageBusy,
}
# The two messages of a put whose request body ends because the client disconnected: the same reset causes either.
_LIST_OPTIONS = {"start_after": "startAfter", "delimiter": "delimiter", "cursor": "cursor", "limit": "limit"}
_CLIENT_GONE = ("Network connection lost", "client disconnected")


class R2Storage:
    """The bucket behind `env.REGISTRY`."""

    def __init__(self, bucket: Any) -> None:
        self._bucket = bucket

    async def head(self, key: str) -> StoredObject | None:
        found = await _result(self._bucket.head(key))
        return None if found is jsnull else _describe(found)

    async def get(self, key: str, byte_range: ByteRange | None = None) -> StoredBody | None:
        options: dict[str, Any] = {}
        if byte_range is not None:
            options["range"] = {"offset": byte_range.offset}
            if byte_range.length is not None:
                options["range"]["length"] = byte_range.length
        found = await _result(self._bucket.get(key, as_js(options)))
        if found is jsnull:
            return None
        size = found.size if byte_range is None else found.range.length
        return StoredBody(_describe(found), JsSource(found.body, size, StorageError))

    async def put(
        self,
        key: str,
        content: bytes | Source | Content,
        attributes: Attributes = NO_ATTRIBUTES,
        **options: Unpack[PutOptions],
    ) -> StoredObject | None:
        sent, checksum, only_if = _options(attributes), options.get("checksum"), options.get("only_if")
        if checksum is not None:
            sent[checksum.algorithm] = checksum.hex
        if isinstance(only_if, NotAfter):
            # As the only condition: when an etag matches, R2 ignores the date (RFC 9110, section 13.2.2).
            sent["onlyIf"] = {"uploadedBefore": js.Date.new(round(only_if.uploaded * 1000) + 1)}
        elif only_if is not None:
            sent["onlyIf"] = {"etagDoesNotMatch": "*"} if only_if == ABSENT else {"etagMatches": only_if}
        found = await _result(self._bucket.put(key, _value(content), as_js(sent)))
        return None if found is jsnull else _describe(found)

    async def delete(self, keys: Sequence[str]) -> None:
        await _result(self._bucket.delete(to_js(list(keys))))

    async def list(self, prefix: str, **options: Unpack[ListOptions]) -> Listing:
        sent: dict[str, Any] = {"prefix": prefix, "limit": MAX_LIST_KEYS}
        for ours, theirs in _LIST_OPTIONS.items():
            if (value := options.get(ours)) is not None:
                sent[theirs] = value
        if options.get("with_metadata"):
            sent["include"] = ["httpMetadata", "customMetadata"]
        page = await _result(self._bucket.list(as_js(sent)))
        return Listing(
            [_describe(found) for found in page.objects],
            list(page.delimitedPrefixes),
            page.cursor if page.truncated else None,
        )

    async def create_upload(self, key: str, attributes: Attributes = NO_ATTRIBUTES) -> MultipartUpload:
        created = await _result(self._bucket.createMultipartUpload(key, as_js(_options(attributes))))
        return MultipartUpload(key, created.uploadId)

    async def upload_part(self, upload: MultipartUpload, number: int, content: Content | Source) -> str:
        part = await _result(self._resume(upload).uploadPart(number, _value(content)))
        etag: str = part.etag
        return etag

    async def complete_upload(self, upload: MultipartUpload, etags: Sequence[str]) -> StoredObject:
        parts = as_js([{"partNumber": number, "etag": etag} for number, etag in enumerate(etags, 1)])
        return _describe(await _result(self._resume(upload).complete(parts)))

    async def abort_upload(self, upload: MultipartUpload) -> None:
        with contextlib.suppress(UploadGone):
            await _result(self._resume(upload).abort())

    def _resume(self, upload: MultipartUpload) -> Any:
        return self._bucket.resumeMultipartUpload(upload.key, upload.upload_id)


async def _result(call: Any) -> Any:
    """Await an R2 call and convert its errors to `StorageError`.

    A missing object is `jsnull`. Compare with `is`, because an object of size 0 is falsy too.
    """
    try:
        return await call
    except JsException as error:
        message = str(error)
        if any(text in message for text in _CLIENT_GONE):
            raise ClientGone(message) from None
        code = _CODE.search(message)
        raise _ERRORS.get(code.group(1) if code else "", StorageError)(message) from None


def _value(content: Any) -> Any:
    if isinstance(content, bytes):
        return to_js(content)
    return content.hand_over() if isinstance(content, JsSource) else content


def as_js(options: Any) -> Any:
    """Convert to plain JavaScript objects at every level.

    A nested dict would become a proxy whose `length` is its number of keys. R2 would read that as the length of a
    range, and serve that many bytes (docs/adr/0003).
    """
    return to_js(options, dict_converter=js.Object.fromEntries)


def _options(attributes: Attributes) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if attributes.content_type is not None:
        options["httpMetadata"] = {"contentType": attributes.content_type}
    if attributes.metadata:
        options["customMetadata"] = dict(attributes.metadata)
    return options


def _describe(found: Any) -> StoredObject:
    # Both are None where a listing omitted them. Compare with None, because metadata with a key `size` may be falsy.
    metadata, http_metadata = found.customMetadata, found.httpMetadata
    checksums = found.checksums.toJSON()
    checksum = None
    for algorithm in ALGORITHMS:
        value = getattr(checksums, algorithm, None)
        if value is not None:
            checksum = Digest(algorithm, value)
    return StoredObject(
        found.key,
        found.size,
        found.etag,
        found.uploaded.getTime() / 1000,
        None if http_metadata is None else getattr(http_metadata, "contentType", None),
        {} if metadata is None else metadata.to_py(),
        checksum,
    )
