"""Answers to end-2: pulling blobs and asking whether they exist."""

from registry import blobs
from registry.endpoints import GetBlob, HeadBlob
from registry.errors import Problem, RegistryError
from registry.http import OCTETS, Request, Response
from registry.names import Digest
from registry.registry import Registry


def _headers(digest: Digest, size: int) -> dict[str, str]:
    # With a Content-Type and no-transform, or an edge compresses the bytes and drops their length (docs/adr/0009).
    return {
        "Content-Type": OCTETS,
        "Content-Length": str(size),
        "Docker-Content-Digest": str(digest),
        "Cache-Control": "private, max-age=31536000, immutable, no-transform",
        "ETag": f'"{digest}"',
    }


async def head_blob(registry: Registry, endpoint: HeadBlob, request: Request) -> Response:
    """end-2, HEAD: 200 with the size and digest of the bytes, wherever they lie."""
    blob = await blobs.find(registry.platform, endpoint.name, endpoint.digest)
    if blob is None:
        raise _unknown(endpoint.digest)
    return Response(200, _headers(endpoint.digest, blob.size))


async def get_blob(registry: Registry, endpoint: GetBlob, request: Request) -> Response:
    """end-2, GET: the bytes, passed through untouched."""
    stored = await blobs.read(registry.platform, endpoint.name, endpoint.digest)
    if stored is None:
        raise _unknown(endpoint.digest)
    return Response(200, _headers(endpoint.digest, stored.object.size), stored.body)


def _unknown(digest: Digest) -> RegistryError:
    return RegistryError(Problem.BLOB_UNKNOWN, details=[{"digest": str(digest)}])
