"""Answers to end-3 and 7: pulling and pushing manifests."""

from registry import manifests
from registry.endpoints import GetManifest, HeadManifest, PutManifest, build
from registry.errors import Problem, RegistryError
from registry.http import OCTETS, Request, Response
from registry.manifest_format import MAX_MANIFEST_SIZE
from registry.names import Digest, Reference
from registry.registry import Registry
from registry.storage import StoredObject


async def head_manifest(registry: Registry, endpoint: HeadManifest, request: Request) -> Response:
    """end-3, HEAD."""
    stored = await manifests.find(registry.platform, endpoint.name, endpoint.reference)
    if stored is None:
        raise _unknown(endpoint.reference)
    return Response(200, _headers(stored, endpoint.reference))


async def get_manifest(registry: Registry, endpoint: GetManifest, request: Request) -> Response:
    """end-3, GET: the bytes as they were pushed."""
    stored = await manifests.read(registry.platform, endpoint.name, endpoint.reference)
    if stored is None:
        raise _unknown(endpoint.reference)
    return Response(200, _headers(stored.object, endpoint.reference), stored.body)


async def put_manifest(registry: Registry, endpoint: PutManifest, request: Request) -> Response:
    """end-7: 201 when the manifest and everything it refers to are there."""
    size = request.body.size
    data = b"" if size is not None and size > MAX_MANIFEST_SIZE else await request.body.read(MAX_MANIFEST_SIZE + 1)
    if (size is not None and size > MAX_MANIFEST_SIZE) or len(data) > MAX_MANIFEST_SIZE:
        raise RegistryError(Problem.MANIFEST_TOO_LARGE, f"a manifest has at most {MAX_MANIFEST_SIZE} bytes")
    received = manifests.receive(data, request.header("content-type"), endpoint.reference)
    tags = endpoint.tags if isinstance(endpoint.reference, Digest) else (endpoint.reference,)
    await manifests.put(registry.platform, endpoint.name, received, tags)
    headers = {
        "Location": build(GetManifest(endpoint.name, received.digest)),
        "Docker-Content-Digest": str(received.digest),
    }
    if received.manifest.subject is not None:
        headers["OCI-Subject"] = str(received.manifest.subject.digest)
    if endpoint.tags:
        headers["OCI-Tag"] = ", ".join(endpoint.tags)
    return Response(201, headers)


def _headers(stored: StoredObject, reference: Reference) -> dict[str, str]:
    digest = manifests.digest_of(stored, reference)
    # A tag may move; a digest never does. no-transform: nobody on the way may compress what has a digest.
    cache = "max-age=31536000, immutable" if isinstance(reference, Digest) else "no-cache"
    headers = {
        "Content-Type": stored.content_type or OCTETS,
        "Content-Length": str(stored.size),
        "Cache-Control": f"private, {cache}, no-transform",
    }
    if digest is not None:
        headers |= {"Docker-Content-Digest": str(digest), "ETag": f'"{digest}"'}
    return headers


def _unknown(reference: Reference) -> RegistryError:
    return RegistryError(Problem.MANIFEST_UNKNOWN, details=[{"reference": str(reference)}])
