"""Answers to end-3, 7 and 9: pulling, pushing and deleting manifests."""

from registry import manifest_deletion, manifests
from registry.conditions import is_unchanged
from registry.endpoints import DeleteManifest, GetManifest, HeadManifest, PutManifest, build
from registry.errors import Problem, RegistryError
from registry.http import OCTETS, Request, Response
from registry.manifest_format import MAX_MANIFEST_SIZE
from registry.names import Digest, Reference
from registry.registry import Registry
from registry.storage import Source, StoredObject


async def head_manifest(registry: Registry, endpoint: HeadManifest, request: Request) -> Response:
    """end-3, HEAD."""
    stored = await manifests.find(registry.platform, endpoint.name, endpoint.reference)
    if stored is None:
        raise _unknown(endpoint.reference)
    return _answer(stored, endpoint.reference, request, None)


async def get_manifest(registry: Registry, endpoint: GetManifest, request: Request) -> Response:
    """end-3, GET: the bytes as they were pushed, with the type they were pushed with.

    Whatever the client accepts: there is nothing else to give it, and the type says what it is (docs/adr/0006).
    """
    stored = await manifests.read(registry.platform, endpoint.name, endpoint.reference)
    if stored is None:
        raise _unknown(endpoint.reference)
    answer = _answer(stored.object, endpoint.reference, request, stored.body)
    if answer.body is None:
        await stored.body.cancel()
    return answer


async def put_manifest(registry: Registry, endpoint: PutManifest, request: Request) -> Response:
    """end-7: 201 when the manifest and everything it refers to are there."""
    size = request.body.size
    data = b"" if size is not None and size > MAX_MANIFEST_SIZE else await request.body.read(MAX_MANIFEST_SIZE + 1)
    if (size is not None and size > MAX_MANIFEST_SIZE) or len(data) > MAX_MANIFEST_SIZE:
        raise RegistryError(Problem.MANIFEST_TOO_LARGE, f"a manifest has at most {MAX_MANIFEST_SIZE} bytes")
    received = manifests.receive(data, request.header("content-type"), endpoint.reference)
    await registry.before_first_write()
    tags = endpoint.tags if isinstance(endpoint.reference, Digest) else (endpoint.reference,)
    await manifests.put(registry.platform, endpoint.name, received, tags, sparse=registry.settings.sparse_manifests)
    headers = {
        "Location": build(GetManifest(endpoint.name, received.digest)),
        "Docker-Content-Digest": str(received.digest),
    }
    if received.manifest.subject is not None:
        headers["OCI-Subject"] = str(received.manifest.subject.digest)
    if endpoint.tags:
        headers["OCI-Tag"] = ", ".join(endpoint.tags)
    return Response(201, headers)


async def delete_manifest(registry: Registry, endpoint: DeleteManifest, request: Request) -> Response:
    """end-9: 202 when the tag, or the manifest with all of its tags, is gone."""
    name, reference = endpoint.name, endpoint.reference
    if isinstance(reference, Digest):
        was_there = await manifest_deletion.delete_manifest(registry.platform, name, reference)
    else:
        was_there = await manifest_deletion.delete_tag(registry.platform, name, reference)
    if not was_there:
        raise _unknown(reference)
    return Response(202)


def _answer(stored: StoredObject, reference: Reference, request: Request, body: Source | None) -> Response:
    headers = _headers(stored, reference)
    etag = headers.get("ETag")
    if etag is not None and is_unchanged(request.header("if-none-match"), etag):
        return Response(304, {name: value for name, value in headers.items() if not name.startswith("Content-")})
    return Response(200, headers, body)


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
