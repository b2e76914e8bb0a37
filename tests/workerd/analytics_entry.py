"""The registry with a dataset that keeps its points as JavaScript got them: `GET /points` shows them."""

from typing import Any, ClassVar
from urllib.parse import urlsplit

import js
from pyodide.ffi import create_proxy, to_js
from workers import Request, Response

import entry
from registry.cloudflare.analytics import AnalyticsDataset


class Default(entry.Default):
    """Notes what `writeDataPoint` would get."""

    points: ClassVar[list[str]] = []

    async def fetch(self, request: Request) -> Any:
        """Answer one request."""
        metrics = entry._the_registry().metrics  # noqa: SLF001 - nothing else leads there
        if metrics.points is None:
            binding = {"writeDataPoint": create_proxy(lambda point: self.points.append(js.JSON.stringify(point)))}
            metrics.points = AnalyticsDataset(to_js(binding, dict_converter=js.Object.fromEntries))
        if urlsplit(request.js_object.url).path == "/points":
            return Response(f"[{','.join(self.points)}]")
        return await super().fetch(request)
