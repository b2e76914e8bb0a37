"""What a registry answers: read no farther than it may go, with its words and where it sends us."""

import re

import httpx

from registry_push.failures import Failure, Refused, Unreachable
from registry_push.retries import described
from registry_push.untrusted_json import LARGEST_DOCUMENT, read_json

_LONGEST_WORDS = 500  # characters of a registry's own words: a person reads no more


async def read_answer(response: httpx.Response) -> httpx.Response:
    """The answer with its body, the connection let go. Raises Failure for a body that no such answer has.

    An answer that is compressed has no body here: nobody asked for that, and a few bytes of it can be gigabytes.
    """
    content = bytearray()
    try:
        if response.headers.get("content-encoding", "identity").lower() == "identity":
            async for block in response.aiter_bytes():
                content += block
                if len(content) > LARGEST_DOCUMENT:
                    raise Failure(f"{response.url.host} answered with more than {LARGEST_DOCUMENT} bytes: no registry")
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
    """Where an answer sends us; raises Unreachable when nobody may go there.

    That is also where credentials are part of the address, since httpx would send them instead of ours, and plain HTTP
    when the answer came by HTTPS.
    """
    host = response.url.host
    try:
        url = response.url.join(response.headers.get("location", ""))
    except httpx.InvalidURL:
        raise Unreachable(f"{host} sends us to something that is no address") from None
    if url.scheme not in ("http", "https") or not url.host or url.userinfo:
        raise Unreachable(f"{host} sends us to something that is no address of a registry")
    if url.scheme == "http" and response.url.scheme != "http":
        raise Unreachable(f"{host} sends us to {url.host} over plain HTTP: its address for clients must begin https://")
    return url


def refusal(response: httpx.Response, what: str) -> Failure:
    """The failure that an answer means which no retry mends, with the registry's own words."""
    words = _words(response)
    message = f"{what}: {described(response)}" + (f" ({words})" if words else "")
    return (Refused if response.status_code in (401, 403) else Failure)(message, response)


def shown(url: str) -> str:
    """A URL or path without what lets its bearer in: most of a session's name, the query, a name with its password."""
    path = re.sub(r"//[^/@]*@", "//", re.split(r"[?#]", url, maxsplit=1)[0])
    return re.sub(r"(/blobs/uploads/[^/]{1,8})[^/]*$", r"\1...", path)


def _words(response: httpx.Response) -> str:
    """What the body's errors say; nothing when it is no registry's, as the pages of something in between are not."""
    try:
        errors = read_json(response.content)["errors"]
        return "; ".join(str(error.get("message") or error["code"]) for error in errors)[:_LONGEST_WORDS]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
