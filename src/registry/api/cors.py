"""Protection against web pages of other origins, and CORS for the allowed ones (Fetch standard, "CORS protocol").

A page of another origin may read answers and send writes only if the setting CORS_ORIGINS has its origin.
"""

from collections.abc import Callable

from registry.api.http import Request, Response
from registry.settings import ANY_ORIGIN

_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_REQUEST_HEADERS = "Accept, Authorization, Cache-Control, Content-Range, Content-Type, If-None-Match, Range"
# Response headers that a script may read, besides those that CORS always exposes.
_RESPONSE_HEADERS = (
    "Content-Length, Content-Range, Docker-Content-Digest, Docker-Upload-UUID, ETag, Link, Location, "
    "OCI-Filters-Applied, OCI-Subject, OCI-Tag, Range, Retry-After, WWW-Authenticate, X-Request-Id"
)
_PREFLIGHT_SECONDS = "600"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# A browser always sends a preflight request before these for a page of another origin; before POST, not always.
_ASKED_BEFORE = frozenset({"PUT", "PATCH", "DELETE"})


def headers_for(origins: tuple[str, ...], header: Callable[[str], str | None]) -> dict[str, str]:
    """Return the CORS headers that let the requesting page read an answer, if its origin is allowed."""
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
        # Only for origins that the operator listed: the browser may then send a stored password.
        allowed["Access-Control-Allow-Credentials"] = "true"
    return allowed


def is_forged(origins: tuple[str, ...], request: Request) -> bool:
    """Whether the request is a cross-site request forgery: a disallowed page made a browser send it.

    The browser may add a stored password to such a request. Browsers send the page's origin in `Origin` with all
    methods but GET and HEAD, and its relation to this registry in `Sec-Fetch-Site`. If CORS_ORIGINS has "*", any page
    may send requests that need a preflight, because browsers then omit the stored password.
    """
    if request.method in _SAFE:
        return False
    origin = request.header("origin")
    is_foreign = (request.header("sec-fetch-site") or "").lower() == "cross-site"
    if origin is None:
        return is_foreign
    # Compare only host and port: behind a proxy that terminates TLS, this registry's own origin has the scheme http.
    # `Sec-Fetch-Site` takes precedence.
    is_own = not is_foreign and origin.partition("://")[2] == request.origin.partition("://")[2] != ""
    if is_own or origin in origins:
        return False
    return not (ANY_ORIGIN in origins and request.method in _ASKED_BEFORE)


def isolating_headers(origins: tuple[str, ...], header: Callable[[str], str | None]) -> dict[str, str]:
    """Return headers that keep a browser from using an answer as a page, script or style (Fetch; CSP, "sandbox")."""
    origin = header("origin")
    is_allowed = origin is not None and (origin in origins or ANY_ORIGIN in origins)
    return {
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cross-Origin-Resource-Policy": "cross-origin" if is_allowed else "same-origin",
    }


def preflight(origins: tuple[str, ...], request: Request) -> Response | None:
    """Return the answer to a CORS preflight request, which has no credentials; None for any other request."""
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
