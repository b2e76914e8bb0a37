"""Imports the registry when it is asked to, not at the top level. Only for benchmarks."""

from typing import Any
from urllib.parse import urlsplit

from workers import Request, Response, WorkerEntrypoint


class Default(WorkerEntrypoint):
    """GET /import imports the registry's entry, and with it all of its modules."""

    async def fetch(self, request: Request) -> Any:
        """Answer one request."""
        if urlsplit(request.js_object.url).path == "/import":
            import entry  # noqa: F401, PLC0415 - what is measured
        return Response("{}")
