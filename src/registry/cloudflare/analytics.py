"""`registry.telemetry.metrics.DataPoints` on a binding of Workers Analytics Engine."""

from typing import Any

from pyodide.ffi import JsException

from registry.cloudflare.r2 import as_js
from registry.telemetry.log import log


class AnalyticsDataset:
    """`writeDataPoint`, which returns at once."""

    def __init__(self, binding: Any) -> None:
        self._binding = binding

    def write(self, index: str, blobs: list[str], doubles: list[float]) -> None:
        try:
            self._binding.writeDataPoint(as_js({"indexes": [index], "blobs": blobs, "doubles": doubles}))
        except JsException as error:  # a request does not fail for its statistics
            log("metrics-not-written", error=str(error))
