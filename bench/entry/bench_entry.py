"""The registry's entry with a further route that reports the memory of its isolate. Only for benchmarks."""

import json
from typing import Any
from urllib.parse import urlsplit

import pyodide_js
from workers import Request, Response

import entry


class Default(entry.Default):
    """Passes all requests to the registry, except GET /bench/memory."""

    async def fetch(self, request: Request) -> Any:
        """Answer one request."""
        if urlsplit(request.js_object.url).path != "/bench/memory":
            return await super().fetch(request)
        registry = entry._registry  # noqa: SLF001 - the pools have no public access
        if registry is None:
            return Response("the registry has had no request yet", status=404)
        platform = registry.platform
        pools = (
            *(platform.buffers, platform.copies, platform.answers, platform.firsts),
            *(platform.medium_documents, platform.large_documents, platform.pulled_documents, platform.forms),
        )
        return Response(
            json.dumps(
                {
                    "held": sum(pool.held for pool in pools),  # bytes, as are all of these values
                    "peak": sum(pool.peak for pool in pools),
                    "limit": sum(pool.limit for pool in pools),
                    "linear": pyodide_js._module.HEAP8.length,  # noqa: SLF001 - the interpreter's memory
                }
            )
        )
