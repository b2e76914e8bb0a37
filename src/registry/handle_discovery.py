"""Answers to end-8: what a repository has."""

from registry import discovery
from registry.endpoints import Endpoint, ListTags, build
from registry.errors import Problem, RegistryError
from registry.http import Request, Response, json_response
from registry.registry import Registry


async def list_tags(registry: Registry, endpoint: ListTags, request: Request) -> Response:
    """end-8: tags in lexical order, a page at a time; n=0 is an empty list without a Link."""
    count = discovery.MAX_PAGE if endpoint.count is None else min(endpoint.count, discovery.MAX_PAGE)
    page = await discovery.list_tags(registry.platform, endpoint.name, count, endpoint.last)
    if page is None:
        raise RegistryError(Problem.NAME_UNKNOWN, details=[{"name": endpoint.name}])
    headers = {}
    if page.more and page.tags:
        headers["Link"] = _next(ListTags(endpoint.name, count, page.tags[-1]))
    return json_response(200, {"name": endpoint.name, "tags": list(page.tags)}, headers)


def _next(endpoint: Endpoint) -> str:
    """RFC 8288, relative to the origin: the client may know us by another name."""
    return f'<{build(endpoint)}>; rel="next"'
