"""Answers the listings: tags (end-8), referrers (end-12) and the catalogue of repositories."""

from registry.api.http import Request, Response, json_response
from registry.api.sealed_cursors import is_sealed, seal, unseal
from registry.content import listings, referrers
from registry.content.referrers import Room
from registry.registry import Registry
from registry.spec.endpoints import Endpoint, ListReferrers, ListRepositories, ListTags
from registry.spec.errors import Problem, RegistryError
from registry.spec.manifest_format import OCI_INDEX
from registry.spec.paths import build
from registry.storage.calls import Calls
from registry.storage.transfer import send
from registry.upstream.referrers import unpack

_CURSORS = "cursors of the catalogue"  # the purpose from which the sealing key is derived


async def list_tags(registry: Registry, endpoint: ListTags, request: Request) -> Response:
    """Answer end-8 with a page of the tags, in lexical order; n=0 gives an empty list without a Link."""
    count = listings.MAX_PAGE if endpoint.count is None else min(endpoint.count, listings.MAX_PAGE)
    page = await listings.list_tags(
        registry.platform, endpoint.name, count, endpoint.last, Calls(registry.settings.r2_calls)
    )
    if page is None:
        raise RegistryError(Problem.NAME_UNKNOWN, details=[{"name": endpoint.name}])
    headers = {}
    if page.last is not None:
        headers["Link"] = _next(ListTags(endpoint.name, count, page.last))
    return json_response(200, {"name": endpoint.name, "tags": list(page.tags)}, headers)


async def list_referrers(registry: Registry, endpoint: ListReferrers, request: Request) -> Response:
    """Answer end-12 with an index of the referrers, from this registry and its upstreams; it may be empty."""
    platform, name, subject = registry.platform, endpoint.name, endpoint.digest
    with Room(platform, Calls(registry.settings.r2_calls)) as room:
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
    """Answer with a page of the catalogue (Docker's registry API): the repositories that the caller may pull."""
    assert request.caller is not None  # admitted
    visible = registry.authorizer.listing(request.caller)
    count = listings.MAX_PAGE if endpoint.count is None else min(endpoint.count, listings.MAX_PAGE)
    position = f"{endpoint.last}/" if endpoint.last else ""
    if endpoint.last is not None and is_sealed(endpoint.last):
        unsealed = unseal(await registry.signing_key.derive(_CURSORS), endpoint.last)
        if unsealed is None:
            raise RegistryError(Problem.BAD_REQUEST, "last is not from a Link of this registry: start without last")
        position = unsealed
    page = await listings.list_repositories(
        registry.platform, count, position, visible, Calls(registry.settings.r2_calls)
    )
    headers = {}
    if page.position is not None:
        # The position at which the R2 calls ran out may be the name of a repository that the caller may not see.
        last = page.names[-1] if page.is_full else seal(await registry.signing_key.derive(_CURSORS), page.position)
        headers["Link"] = _next(ListRepositories(count, last))
    return json_response(200, {"repositories": list(page.names)}, headers)


def _next(endpoint: Endpoint) -> str:
    """Return the Link header (RFC 8288). It is relative, because clients may use another host name of the registry."""
    return f'<{build(endpoint)}>; rel="next"'
