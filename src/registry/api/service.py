"""Handlers for the service itself: front page, health check and metrics."""

from html import escape

from registry.api.http import Request, Response, json_response
from registry.ports.storage import StorageError
from registry.registry import Registry
from registry.spec.endpoints import CheckHealth, ShowFrontPage, ShowMetrics
from registry.spec.errors import Problem, RegistryError
from registry.storage import keys
from registry.telemetry.log import log
from registry.telemetry.metrics import CONTENT_TYPE

# The page has no scripts and no styles. Its empty icon keeps browsers from requesting /favicon.ico.
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>Container registry</title>
<h1>Container registry</h1>
<p>This is a registry of container images. Docker and every other client of the
<a href="https://github.com/opencontainers/distribution-spec/blob/main/spec.md">OCI Distribution Specification</a>
push to it and pull from it:</p>
<pre>
docker login {host}
docker push {host}/&lt;name&gt;:&lt;tag&gt;
docker pull {host}/&lt;name&gt;:&lt;tag&gt;
</pre>
<p>Its operator gives you a user name with a password or a token.</p>
</html>
"""
_PAGE_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; img-src data:; frame-ancestors 'none'",
    "Cache-Control": "public, max-age=300",
}
# Health checks need no credentials and have no rate limit, so each isolate calls R2 at most once in this time.
HEALTH_SECONDS = 10


async def show_front_page(registry: Registry, endpoint: ShowFrontPage, request: Request) -> Response:
    """Answer a page that tells what this service is and how to log in."""
    return Response(200, _PAGE_HEADERS, _PAGE.format(host=escape(request.origin.partition("://")[2])))


async def check_health(registry: Registry, endpoint: CheckHealth, request: Request) -> Response:
    """Answer 200 when the bucket answers, else 503. The log has the error."""
    now = registry.platform.now()
    healthy, until = registry.health
    if now >= until:
        healthy = await _reaches_bucket(registry)
        registry.health = healthy, now + HEALTH_SECONDS
    status, word = (200, "ok") if healthy else (503, "the bucket does not answer")
    return json_response(status, {"status": word}, {"Cache-Control": "no-store"})


async def _reaches_bucket(registry: Registry) -> bool:
    try:
        await registry.platform.storage.head(keys.SIGNING_KEY)
    except StorageError as error:
        log("unhealthy", error=str(error))
        return False
    return True


async def show_metrics(registry: Registry, endpoint: ShowMetrics, request: Request) -> Response:
    """Answer the metrics of this isolate in the Prometheus format."""
    if not registry.settings.prometheus:
        raise RegistryError(Problem.NOT_FOUND, "metrics are disabled: the operator can enable them with PROMETHEUS")
    return Response(200, {"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"}, registry.metrics.text())
