"""Requests that web pages send (the Fetch standard, "CORS protocol").

A page of another origin may read answers, and change things, only when the operator named its origin.
"""

from collections.abc import Callable

from registry.api.http import Request, Response
from registry.settings import ANY_ORIGIN

_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_REQUEST_HEADERS = "Accept, Authorization, Cache-Control, Content-Range, Content-Type, If-None-Match, Range"
# What a script may read of an answer, beyond what any script may.
_RESPONSE_HEADERS = (
    "Content-Length, Content-Range, Docker-Content-Digest, Docker-Upload-UUID, ETag, Link, Location, "
    "OCI-Filters-Applied, OCI-Subject, OCI-Tag, Range, Retry-After, WWW-Authenticate, X-Request-Id"
)
_PREFLIGHT_SECONDS = "600"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# A browser asks before it sends these for a page of another origin; for POST it may not.
_ASKED_BEFORE = frozenset({"PUT", "PATCH", "DELETE"})


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


def is_forged(origins: tuple[str, ...], request: Request) -> bool:
    """Whether a page that may not do so made somebody's browser send this: the password that it keeps comes along.

    Browsers name the page's origin in `Origin` with everything but GET and HEAD, and what it is to us in
    `Sec-Fetch-Site`. A page of any origin (CORS_ORIGINS has "*") may do what browsers ask for before they do it, since
    they are then told to leave the password out.
    """
    if request.method in _SAFE:
        return False
    origin = request.header("origin")
    is_foreign = (request.header("sec-fetch-site") or "").lower() == "cross-site"
    if origin is None:
        return is_foreign
    # By host: behind a proxy that ends TLS we are asked by http. A browser knows better.
    is_own = not is_foreign and origin.partition("://")[2] == request.origin.partition("://")[2] != ""
    if is_own or origin in origins:
        return False
    return not (ANY_ORIGIN in origins and request.method in _ASKED_BEFORE)


def isolating_headers(origins: tuple[str, ...], header: Callable[[str], str | None]) -> dict[str, str]:
    """What keeps a browser from taking an answer for a page, a script or a style of ours (Fetch; CSP, "sandbox")."""
    origin = header("origin")
    is_allowed = origin is not None and (origin in origins or ANY_ORIGIN in origins)
    return {
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cross-Origin-Resource-Policy": "cross-origin" if is_allowed else "same-origin",
    }


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
