"""The main module with STATS=1: the project's own, with every bucket that it can reach wrapped by stats.mjs."""

from typing import Any

import workers
from pyodide.ffi import create_once_callable
from workers import WorkerEntrypoint, import_from_javascript

_import = import_from_javascript


def _stats() -> Any:
    return _import("stats.mjs")  # at no import: the snapshot holds no object of JavaScript


def _counted_import(name: str) -> Any:
    module = _import(name)
    return _stats().countedModule(module) if name == "cloudflare:workers" else module


workers.import_from_javascript = _counted_import

import entry  # noqa: E402  it takes the function above from `workers`


class Default(entry.Default):
    """The entrypoint, with its calls counted for the request that they are made for."""

    def __init__(self, ctx: Any, _env: Any) -> None:
        # What comes in is the SDK's wrapper already: the bindings themselves are wrapped.
        super().__init__(ctx, _counted_import("cloudflare:workers").env)

    async def fetch(self, request: Any) -> Any:
        """Answer as the project does."""
        answer = None

        async def handle() -> None:
            nonlocal answer
            answer = await entry.Default.fetch(self, request)

        await _stats().attributed(request.js_object, create_once_callable(handle))
        return answer


class Stats(WorkerEntrypoint):
    """What is served on the port of the counts."""

    async def fetch(self, request: Any) -> Any:
        """Tell the counts, or set them to 0."""
        return _stats().answer(request.js_object)
