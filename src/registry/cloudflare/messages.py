"""Requests and responses between the Workers SDK and the core."""

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
    """The core's view of a request. Headers are looked up one by one: the SDK's mapping parses all of them."""
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
    """Bytes of a body: none when there is no body, unknown when the client sends it in chunks."""
    if present(body) is None:
        return 0
    return int(length) if length is not None else None


def to_response(response: Response) -> Any:
    """JavaScript's response; a stream is passed on as it is. The SDK's own wrapper costs more than all of a HEAD."""
    body: Any = response.body
    if isinstance(body, JsSource):
        body = body.hand_over()
    elif isinstance(body, bytes):
        body = to_js(body)
    return js.Response.new(body, status=response.status, headers=as_js(response.headers))
