"""Responses of a registry: reads them up to a size limit, and extracts their error messages and locations."""

import re

import httpx

from registry_push.failures import Failure, Refused, Unreachable
from registry_push.retries import described
from registry_push.untrusted_json import LARGEST_DOCUMENT, read_json

_LONGEST_WORDS = 500  # characters of a registry's error message: a person reads no more


async def read_answer(response: httpx.Response) -> httpx.Response:
    """Read the body and release the connection. Raises Failure for a body above LARGEST_DOCUMENT.

    The body of a compressed response is dropped: no request accepts one, and a few bytes of it can unpack to gigabytes.
    """
    content = bytearray()
    try:
        if response.headers.get("content-encoding", "identity").lower() == "identity":
            async for block in response.aiter_bytes():
                content += block
                if len(content) > LARGEST_DOCUMENT:
                    raise Failure(
                        f"{response.url.host} answered with more than {LARGEST_DOCUMENT} bytes: is it a registry?"
                    )
    finally:
        await response.aclose()
    dropped = (b"content-encoding", b"content-length", b"transfer-encoding")
    return httpx.Response(
        response.status_code,
        headers=[(name, value) for name, value in response.headers.raw if name.lower() not in dropped],
        content=bytes(content),
        request=response.request,
        extensions=response.extensions,
    )


def location_of(response: httpx.Response) -> httpx.URL:
    """The absolute URL of a response's Location header; raises Unreachable when it must not be followed.

    Refused are malformed URLs, URLs with credentials (httpx would send these instead of ours), and plain HTTP when the
    response came by HTTPS.
    """
    host = response.url.host
    try:
        url = response.url.join(response.headers.get("location", ""))
    except httpx.InvalidURL:
        raise Unreachable(f"{host} answered with a location that is not a valid URL") from None
    if url.scheme not in ("http", "https") or not url.host or url.userinfo:
        raise Unreachable(f"{host} answered with a location that is not an http(s) URL without credentials")
    if url.scheme == "http" and response.url.scheme != "http":
        raise Unreachable(
            f"{host} answered with a location on {url.host} over plain HTTP: "
            "its operator has to set the registry's external URL to https://"
        )
    return url


def refusal(response: httpx.Response, what: str) -> Failure:
    """The failure for a response that no retry would change; the message includes the registry's error message."""
    words = _words(response)
    message = f"{what}: {described(response)}" + (f" ({words})" if words else "")
    return (Refused if response.status_code in (401, 403) else Failure)(message, response)


def shown(url: str) -> str:
    """A URL or path without its secrets: most of an upload session's ID, the query, and user name and password."""
    path = re.sub(r"//[^/@]*@", "//", re.split(r"[?#]", url, maxsplit=1)[0])
    return re.sub(r"(/blobs/uploads/[^/]{1,8})[^/]*$", r"\1...", path)


def _words(response: httpx.Response) -> str:
    """The error messages in the body; empty when the body is not a registry's, such as an error page of an edge."""
    try:
        errors = read_json(response.content)["errors"]
        return "; ".join(str(error.get("message") or error["code"]) for error in errors)[:_LONGEST_WORDS]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
