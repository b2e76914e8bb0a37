"""Answers to end-8, end-12 and the catalogue: what there is."""

from registry import discovery, referrers
from registry.endpoints import Endpoint, ListReferrers, ListRepositories, ListTags
from registry.errors import Problem, RegistryError
from registry.http import Request, Response, json_response
from registry.manifest_format import OCI_INDEX
from registry.paths import build
from registry.permissions import Access
from registry.referrers import Room
from registry.registry import Registry
from registry.sealed import is_sealed, seal, unseal
from registry.transfer import send
from registry.upstream_referrers import unpack

_CURSORS = "cursors of the catalogue"  # what their key is derived for


async def list_tags(registry: Registry, endpoint: ListTags, request: Request) -> Response:
    """end-8: tags in lexical order, a page at a time; n=0 is an empty list without a Link."""
    count = discovery.MAX_PAGE if endpoint.count is None else min(endpoint.count, discovery.MAX_PAGE)
    page = await discovery.list_tags(registry.platform, endpoint.name, count, endpoint.last)
    if page is None:
        raise RegistryError(Problem.NAME_UNKNOWN, details=[{"name": endpoint.name}])
    headers = {}
    if page.last is not None:
        headers["Link"] = _next(ListTags(endpoint.name, count, page.last))
    return json_response(200, {"name": endpoint.name, "tags": list(page.tags)}, headers)


async def list_referrers(registry: Registry, endpoint: ListReferrers, request: Request) -> Response:
    """end-12: an index of what names this digest, here or at an upstream; an empty one when nobody knows of any."""
    platform, name, subject = registry.platform, endpoint.name, endpoint.digest
    with Room(platform) as room:
        elsewhere = await registry.fallback.referrers(name, subject, room)
        listed = unpack(elsewhere.data)
        page = await referrers.list_page(room, name, subject, endpoint.artifact_type, endpoint.last, listed)
        if elsewhere.failure is not None and page.is_empty:
            raise elsewhere.failure
        lease = room.hand_over()
    headers = {"Content-Type": OCI_INDEX, "Content-Length": str(len(page.index))}
    if endpoint.artifact_type is not None:
        headers["OCI-Filters-Applied"] = "artifactType"
    if page.last is not None:
        headers["Link"] = _next(ListReferrers(name, subject, endpoint.artifact_type, page.last))
    if lease is None:
        return Response(200, headers, page.index)
    return Response(200, headers, await send(platform, lease, page.index, request.keep_running))


async def list_repositories(registry: Registry, endpoint: ListRepositories, request: Request) -> Response:
    """The catalogue of Docker's registry API, a page at a time: what the caller may pull."""
    assert request.caller is not None  # admitted
    visible = registry.auth.listing(request.caller)
    count = discovery.MAX_PAGE if endpoint.count is None else min(endpoint.count, discovery.MAX_PAGE)
    last = endpoint.last
    if last is not None and is_sealed(last):
        last = unseal(await registry.signing_key.derive(_CURSORS), last)
        if last is None:
            raise RegistryError(Problem.BAD_REQUEST, "last is not from a Link of this registry: begin without it")
    page = await discovery.list_repositories(registry.platform, count, last, visible)
    headers = {}
    if page.last is not None:
        is_visible = Access.PULL in visible.on(page.last)
        cursor = page.last if is_visible else seal(await registry.signing_key.derive(_CURSORS), page.last)
        headers["Link"] = _next(ListRepositories(count, cursor))
    return json_response(200, {"repositories": list(page.names)}, headers)


def _next(endpoint: Endpoint) -> str:
    """RFC 8288, relative to the origin: the client may know us by another name."""
    return f'<{build(endpoint)}>; rel="next"'
