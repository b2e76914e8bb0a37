"""Implements `registry.ports.web.Web` with the runtime's `fetch`."""

import asyncio
from collections.abc import Mapping
from typing import Any

import js
from pyodide.ffi import JsException

from registry.cloudflare.r2 import as_js
from registry.cloudflare.streams import JsSource, present
from registry.ports.web import WebError, WebResponse


class JsWeb:
    """Calls `fetch`."""

    async def fetch(self, method: str, url: str, headers: Mapping[str, str], body: str = "") -> WebResponse:
        controller = js.AbortController.new()
        # A plain object, in which `signal` stays a JavaScript object.
        options: dict[str, Any] = {
            "method": method,
            "headers": dict(headers),
            "redirect": "manual",
            "signal": controller.signal,
        }
        if body:
            options["body"] = body
        try:
            answer = await js.fetch(url, as_js(options))
        except JsException as error:
            raise WebError(str(error)) from None
        except asyncio.CancelledError:
            controller.abort()
            raise

        def header(name: str) -> str | None:
            value: str | None = present(answer.headers.get(name))
            return value

        return WebResponse(answer.status, header, JsSource(answer.body, None, WebError))
