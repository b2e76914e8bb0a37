"""Handlers for blobs: pull (end-2, GET), existence check (end-2, HEAD) and deletion (end-10)."""

from registry.api.byte_ranges import ByteRanges
from registry.api.http import Request, Response
from registry.content import blobs
from registry.ports.storage import Source
from registry.registry import Registry
from registry.spec.conditions import is_unchanged, may_resume
from registry.spec.endpoints import Access, DeleteBlob, GetBlob, HeadBlob
from registry.spec.errors import Problem, RegistryError
from registry.spec.media_types import OCTETS
from registry.spec.names import Digest
from registry.spec.ranges import ByteRange, content_range, parse_ranges
from registry.storage import bucket_format
from registry.upstream.exchange import UpstreamError


async def head_blob(registry: Registry, endpoint: HeadBlob, request: Request) -> Response:
    """end-2, HEAD: 200 with the size and digest, for a blob in the bucket or at an upstream registry."""
    name, digest = endpoint.name, endpoint.digest
    blob = await blobs.find(registry.platform, name, digest)
    if blob is not None:
        size: int | None = blob.size
    elif Access.PUSH in registry.authorizer.allowed_on(request.caller, name):
        # A pusher must upload a blob that the bucket lacks, even if an upstream has it. No client sends this to pull.
        raise _unknown(digest)
    else:
        size = await registry.fallback.blob_size(name, digest)
    if size is None:
        raise _unknown(digest)
    if is_unchanged(request.header("if-none-match"), _etag(digest)):
        return Response(304, _lasting_headers(digest))
    return Response(200, _headers(digest, size))


async def get_blob(registry: Registry, endpoint: GetBlob, request: Request) -> Response:
    """end-2, GET: 200 with the bytes, which stream through unread; 206 for byte ranges; 304 if the client has them."""
    platform, name, digest = registry.platform, endpoint.name, endpoint.digest
    if request.header("range") is None and request.header("if-none-match") is None:
        stored = await blobs.read(platform, name, digest)
        if stored is None:
            return await _copy_from_upstream(registry, endpoint, request)
        return Response(200, _headers(digest, stored.object.size), stored.body)
    blob = await blobs.find(platform, name, digest)
    size = await registry.fallback.blob_size(name, digest) if blob is None else blob.size
    if size is None:
        raise _unknown(digest)
    if is_unchanged(request.header("if-none-match"), _etag(digest)):
        return Response(304, _lasting_headers(digest))
    resumes = may_resume(request.header("if-range"), _etag(digest))
    parts = parse_ranges(request.header("range"), size) if resumes else []
    if blob is not None and len(parts) > 1:
        several = ByteRanges(platform, blob, parts)
        request.keep_running(several.run())
        return Response(206, _headers(digest, several.length, several.content_type), several.content)
    part = parts[0] if len(parts) == 1 else None
    if blob is not None:
        stored = await blobs.read_part(platform, blob, part)
        return _part(digest, size, part, None if stored is None else stored.body)
    body = None if part is None else await registry.fallback.part(name, digest, part, size)
    return await _copy_from_upstream(registry, endpoint, request) if body is None else _part(digest, size, part, body)


def _part(digest: Digest, size: int, part: ByteRange | None, body: Source | None) -> Response:
    """Return the answer with one range of a blob, or with all of it."""
    if body is None:
        raise _unknown(digest)
    headers = _headers(digest, size)
    if part is None:
        return Response(200, headers, body)
    headers |= {"Content-Length": str(part.length), "Content-Range": content_range(part, size)}
    return Response(206, headers, body)


async def _copy_from_upstream(registry: Registry, endpoint: GetBlob, request: Request) -> Response:
    name, digest = endpoint.name, endpoint.digest
    copy = await registry.fallback.blob(name, digest)
    if copy is None:
        raise _unknown(digest)
    if copy.content is not None and copy.size is not None:
        request.keep_running(copy.run())
        return Response(200, _headers(digest, copy.size), copy.content)
    try:
        await copy.store_first()
    except UpstreamError as error:
        raise error.told(Problem.BLOB_UNKNOWN) from None
    stored = await blobs.read(registry.platform, name, digest)
    if stored is None:
        raise _unknown(digest)
    return Response(200, _headers(digest, stored.object.size), stored.body)


async def delete_blob(registry: Registry, endpoint: DeleteBlob, request: Request) -> Response:
    """end-10: 202 when the blob was deleted from this repository. Other repositories keep it."""
    platform, name, digest = registry.platform, endpoint.name, endpoint.digest
    stored = await blobs.find_own(platform, name, digest)
    if stored is None:
        raise _unknown(digest)
    # A link of serverless-registry to this blob, in another repository, would become a dangling link.
    if not await bucket_format.is_ours(platform):
        raise RegistryError(Problem.NOT_MIGRATED)
    await blobs.delete(platform, name, stored)
    return Response(202)


def _etag(digest: Digest) -> str:
    return f'"{digest}"'


def _lasting_headers(digest: Digest) -> dict[str, str]:
    return {
        "Docker-Content-Digest": str(digest),
        "Cache-Control": "private, max-age=31536000, immutable, no-transform",
        "ETag": _etag(digest),
    }


def _headers(digest: Digest, size: int, content_type: str = OCTETS) -> dict[str, str]:
    # Without Content-Type and no-transform, Cloudflare compresses the bytes and drops Content-Length (docs/adr/0009).
    return {
        **_lasting_headers(digest),
        "Content-Type": content_type,
        "Content-Length": str(size),
        "Accept-Ranges": "bytes",
    }


def _unknown(digest: Digest) -> RegistryError:
    return RegistryError(Problem.BLOB_UNKNOWN, details=[{"digest": str(digest)}])
