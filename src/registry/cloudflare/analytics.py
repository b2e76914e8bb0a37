"""Implements `registry.telemetry.metrics.DataPoints` with a Workers Analytics Engine binding."""

from typing import Any

from pyodide.ffi import JsException

from registry.cloudflare.r2 import as_js
from registry.telemetry.log import log


class AnalyticsDataset:
    """Writes data points with `writeDataPoint`, which returns without waiting."""

    def __init__(self, binding: Any) -> None:
        self._binding = binding

    def write(self, index: str, blobs: list[str], doubles: list[float]) -> None:
        try:
            self._binding.writeDataPoint(as_js({"indexes": [index], "blobs": blobs, "doubles": doubles}))
        except JsException as error:  # a request does not fail because of its metrics
            log("metrics-not-written", error=str(error))
