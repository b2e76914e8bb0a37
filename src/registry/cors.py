"""Browsers from other origins (the Fetch standard, "CORS protocol"): for the web pages that show registries."""

from collections.abc import Callable
from urllib.parse import urlsplit

from registry.http import Request, Response

ANY_ORIGIN = "*"
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_REQUEST_HEADERS = "Accept, Authorization, Cache-Control, Content-Range, Content-Type, If-None-Match, Range"
# What a script may read of an answer, beyond what any script may.
_RESPONSE_HEADERS = (
    "Content-Length, Content-Range, Docker-Content-Digest, Docker-Upload-UUID, ETag, Link, Location, "
    "OCI-Filters-Applied, OCI-Subject, OCI-Tag, Range, Retry-After, WWW-Authenticate, X-Request-Id"
)
_PREFLIGHT_SECONDS = "600"


def parse_origins(text: str) -> tuple[str, ...]:
    """The value of CORS_ORIGINS: origins, or "*". Raises ValueError with a sentence."""
    origins = tuple(text.replace(",", " ").split())
    for origin in origins:
        url = urlsplit(origin)
        if origin not in (ANY_ORIGIN, f"{url.scheme}://{url.netloc}"):
            raise ValueError(f"{origin!r} is no origin: scheme, host and port, as https://ui.example.com")
    return origins


def headers_for(origins: tuple[str, ...], header: Callable[[str], str | None]) -> dict[str, str]:
    """What to add to an answer so that the page which asked may read it; nothing for a page of another origin."""
    origin = header("origin")
    if not origins or origin is None:
        return {}
    if origin not in origins and ANY_ORIGIN not in origins:
        return {"Vary": "Origin"}
    allowed = {
        "Access-Control-Allow-Origin": origin if origin in origins else ANY_ORIGIN,
        "Access-Control-Expose-Headers": _RESPONSE_HEADERS,
        "Vary": "Origin",
    }
    if origin in origins:
        # Only for pages that the operator named: a browser may add the password it keeps.
        allowed["Access-Control-Allow-Credentials"] = "true"
    return allowed


def preflight(origins: tuple[str, ...], request: Request) -> Response | None:
    """The answer to a browser that asks whether it may; None for any other request. It carries no credentials."""
    if request.method != "OPTIONS" or request.header("access-control-request-method") is None or not origins:
        return None
    return Response(
        204,
        {
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": _REQUEST_HEADERS,
            "Access-Control-Max-Age": _PREFLIGHT_SECONDS,
        },
    )
