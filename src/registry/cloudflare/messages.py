"""Converts requests and responses between the Workers SDK and the core."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import js
import workers
from pyodide.ffi import to_js

from registry.api.http import Request, Response
from registry.cloudflare.r2 import as_js
from registry.cloudflare.streams import JsSource, present


def to_request(request: workers.Request, wait_until: Callable[[Awaitable[Any]], object]) -> Request:
    """Convert an SDK request. It reads single headers on demand, because the SDK's mapping parses all of them."""
    raw: Any = request.js_object
    url = urlsplit(raw.url)
    headers = raw.headers

    def header(name: str) -> str | None:
        value: str | None = present(headers.get(name))
        return value

    return Request(
        raw.method,
        f"{url.scheme}://{url.netloc}",
        url.path,
        url.query,
        header,
        JsSource(raw.body, _size(raw.body, header("content-length"))),
        lambda work: wait_until(asyncio.ensure_future(work)),
    )


def _size(body: Any, length: str | None) -> int | None:
    """Return the size of a body in bytes: 0 without a body, None when the client sends no Content-Length."""
    if present(body) is None:
        return 0
    return int(length) if length is not None else None


def to_response(response: Response) -> Any:
    """Convert to a JavaScript response; a stream passes through unread.

    The SDK's wrapper would take more CPU time than a whole HEAD request.
    """
    body: Any = response.body
    if isinstance(body, JsSource):
        body = body.hand_over()
    elif isinstance(body, bytes):
        body = to_js(body)
    return js.Response.new(body, status=response.status, headers=as_js(response.headers))
