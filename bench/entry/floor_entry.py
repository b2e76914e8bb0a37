"""The minimal Python Worker: it makes a request's R2 call and nothing else. Only for benchmarks."""

from typing import Any
from urllib.parse import urlsplit

from workers import Request, Response, WorkerEntrypoint, import_from_javascript


class Default(WorkerEntrypoint):
    """Answers /v2/ without a bucket call; any other path is the key of an object."""

    async def fetch(self, request: Request) -> Any:
        """Answer one request."""
        raw = request.js_object
        path = urlsplit(raw.url).path
        if path == "/v2/":
            return Response("{}")
        bucket = import_from_javascript("cloudflare:workers").env.REGISTRY
        if raw.method == "HEAD":
            found = await bucket.head(path)
            return Response(None, headers={"Content-Length": str(found.size)})
        if raw.method == "PUT":
            await bucket.put(path, raw.body)
            return Response(None, status=201)
        found = await bucket.get(path)
        return Response(found.body, headers={"Content-Length": str(found.size)})
