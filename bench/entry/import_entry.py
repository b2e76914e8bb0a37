"""Imports the registry on request instead of at the top level, to measure the import. Only for benchmarks."""

from typing import Any
from urllib.parse import urlsplit

from workers import Request, Response, WorkerEntrypoint


class Default(WorkerEntrypoint):
    """Imports the registry's entry, and thereby all of its modules, on GET /import."""

    async def fetch(self, request: Request) -> Any:
        """Answer one request."""
        if urlsplit(request.js_object.url).path == "/import":
            import entry  # noqa: F401, PLC0415 - the import is measured
        return Response("{}")
