"""Handlers for manifests: pull (end-3), push (end-7) and deletion (end-9)."""

from dataclasses import dataclass, replace

from registry.api.http import Request, Response
from registry.content import manifest_deletion, manifest_push, manifests
from registry.content.manifests import Received
from registry.ports.storage import Source, StoredObject
from registry.registry import Registry
from registry.spec.conditions import is_unchanged
from registry.spec.endpoints import Access, DeleteManifest, GetManifest, HeadManifest, PutManifest
from registry.spec.errors import Problem, RegistryError
from registry.spec.manifest_format import MAX_MANIFEST_SIZE, is_media_type
from registry.spec.media_types import OCTETS
from registry.spec.names import Digest, Reference, RepositoryName
from registry.spec.paths import build
from registry.storage.transfer import document

_LARGE = 256 * 1024  # bytes: a larger manifest is sent from the bucket, not from memory


async def head_manifest(registry: Registry, endpoint: HeadManifest, request: Request) -> Response:
    """end-3, HEAD: 200 with the manifest's media type, size and digest."""
    name, reference = endpoint.name, endpoint.reference
    stored = await manifests.find(registry.platform, name, reference)
    if not _is_push(registry, name, request):
        copied = await registry.fallback.manifest(name, reference, stored)
        if copied is not None:
            return _answer(_describe_copied(copied), reference, request, None)
    if stored is None:
        raise _unknown(reference)
    return _answer(_describe(stored, reference), reference, request, None)


async def get_manifest(registry: Registry, endpoint: GetManifest, request: Request) -> Response:
    """end-3, GET: 200 with the bytes and the media type as they were pushed.

    The client's Accept header is ignored, because the manifest exists in no other form (docs/adr/0006).
    """
    name, reference = endpoint.name, endpoint.reference
    stored = await manifests.read(registry.platform, name, reference)
    try:
        copied = await registry.fallback.manifest(name, reference, None if stored is None else stored.object)
    except RegistryError:
        if stored is not None:
            await stored.body.cancel()
        raise
    if copied is not None and len(copied.data) > _LARGE:
        # Send it from the bucket, which has the copy by now: a slow client would keep the bytes in memory.
        again = await manifests.read(registry.platform, name, copied.digest)
        body = copied.data if again is None else again.body
        answer = _answer(_describe_copied(copied), reference, request, body)
        if again is not None and answer.body is not again.body:
            await again.body.cancel()
    elif copied is not None:
        answer = _answer(_describe_copied(copied), reference, request, copied.data)
    elif stored is not None:
        answer = _answer(_describe(stored.object, reference), reference, request, stored.body)
    else:
        raise _unknown(reference)
    if stored is not None and answer.body is not stored.body:
        await stored.body.cancel()
    return answer


async def put_manifest(registry: Registry, endpoint: PutManifest, request: Request) -> Response:
    """end-7: 201 when the manifest is stored and everything it refers to exists."""
    if request.body.size is not None and request.body.size > MAX_MANIFEST_SIZE:
        raise _too_large()
    platform = registry.platform
    async with document(platform, platform.medium_documents, request.body, MAX_MANIFEST_SIZE) as read:
        if len(read.data) > MAX_MANIFEST_SIZE:
            raise _too_large()
        received = manifests.receive(read.data, request.header("content-type"), endpoint.reference)
        received = replace(received, content=read.content)
        return await _put_manifest(registry, endpoint, received)


async def _put_manifest(registry: Registry, endpoint: PutManifest, received: Received) -> Response:
    await registry.before_first_write()
    tags = endpoint.tags if isinstance(endpoint.reference, Digest) else (endpoint.reference,)
    settings = registry.settings
    await manifest_push.put(
        registry.platform,
        endpoint.name,
        received,
        tags,
        sparse=settings.sparse_manifests,
        r2_calls=settings.r2_calls,
    )
    await registry.fallback.note_push(endpoint.name)
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
    """end-9: 202 when the tag, or the manifest with all of its tags, was deleted."""
    name, reference = endpoint.name, endpoint.reference
    if isinstance(reference, Digest):
        was_there = await manifest_deletion.delete_manifest(registry.platform, name, reference)
    else:
        was_there = await manifest_deletion.delete_tag(registry.platform, name, reference)
    if not was_there:
        raise _unknown(reference)
    return Response(202)


def _is_push(registry: Registry, name: RepositoryName, request: Request) -> bool:
    """Whether a pusher asks which manifests the bucket has; the content of upstreams does not count then.

    The scope of a token tells a push from a pull. A password does not: containerd sends HEAD before a pull, too.
    """
    caller = request.caller
    if caller is None or caller.grant is None:
        return False
    return Access.PUSH in registry.authorizer.allowed_on(caller, name)


@dataclass(frozen=True, slots=True)
class _Described:
    """The values for a manifest's headers. `size` is in bytes. Some tags of serverless-registry have no digest."""

    media_type: str | None
    size: int
    digest: Digest | None


def _describe(stored: StoredObject, reference: Reference) -> _Described:
    # serverless-registry stored any text as the media type.
    media_type = stored.content_type if is_media_type(stored.content_type) else None
    return _Described(media_type, stored.size, manifests.digest_of(stored, reference))


def _describe_copied(received: Received) -> _Described:
    return _Described(received.manifest.media_type, len(received.data), received.digest)


def _answer(found: _Described, reference: Reference, request: Request, body: Source | bytes | None) -> Response:
    headers = _headers(found, reference)
    etag = headers.get("ETag")
    if etag is not None and is_unchanged(request.header("if-none-match"), etag):
        return Response(304, {name: value for name, value in headers.items() if not name.startswith("Content-")})
    return Response(200, headers, body)


def _headers(found: _Described, reference: Reference) -> dict[str, str]:
    # A tag may move; a digest's bytes never change. no-transform: proxies must not compress bytes that have a digest.
    cache = "max-age=31536000, immutable" if isinstance(reference, Digest) else "no-cache"
    headers = {
        "Content-Type": found.media_type or OCTETS,
        "Content-Length": str(found.size),
        "Cache-Control": f"private, {cache}, no-transform",
    }
    if found.digest is not None:
        headers |= {"Docker-Content-Digest": str(found.digest), "ETag": f'"{found.digest}"'}
    return headers


def _too_large() -> RegistryError:
    return RegistryError(
        Problem.MANIFEST_TOO_LARGE, f"manifest too large: at most {MAX_MANIFEST_SIZE} bytes are allowed"
    )


def _unknown(reference: Reference) -> RegistryError:
    return RegistryError(Problem.MANIFEST_UNKNOWN, details=[{"reference": str(reference)}])
