"""A Worker that runs the inputs of tests/fuzz.py: what ends Pyodide does not end CPython.

`GET /` lists the targets; `POST /<target>?count=…&seed=…` runs one and answers "ok", or the input that broke it.
"""

import json
from urllib.parse import parse_qs, unquote, urlsplit

from workers import Request, Response, WorkerEntrypoint

from tests.fuzz import LARGER, LONG, TARGETS, check, long_inputs, run


class Default(WorkerEntrypoint):
    """Runs one target a request."""

    async def fetch(self, request: Request) -> Response:
        """List the targets, or run one."""
        url = urlsplit(request.url)
        name = unquote(url.path.removeprefix("/"))
        if not name:
            return Response(json.dumps(list(TARGETS)))
        asked = {key: int(values[0]) for key, values in parse_qs(url.query).items()}
        for text in (*TARGETS[name].corpus, *long_inputs(TARGETS[name].corpus, LARGER * LONG)):
            check(TARGETS[name], text)
        return Response(run(name, asked["count"], asked["seed"]) or "ok")
