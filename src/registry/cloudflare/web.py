"""`registry.web.Web` on the runtime's `fetch`."""

from collections.abc import Mapping

import js
from pyodide.ffi import JsException

from registry.cloudflare.r2 import as_js
from registry.cloudflare.streams import JsSource, present
from registry.web import WebError, WebResponse


class JsWeb:
    """`fetch`."""

    async def get(self, url: str, headers: Mapping[str, str], seconds: float) -> WebResponse:
        signal = js.AbortSignal.timeout(int(seconds * 1000))
        try:
            # As options of a plain object: `signal` is one of JavaScript's own, and stays it.
            answer = await js.fetch(url, as_js({"headers": dict(headers), "redirect": "manual", "signal": signal}))
        except JsException as error:
            raise WebError(str(error)) from None

        def header(name: str) -> str | None:
            value: str | None = present(answer.headers.get(name))
            return value

        return WebResponse(answer.status, header, JsSource(answer.body, None, WebError))
