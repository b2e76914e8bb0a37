"""A Worker that verifies: `POST /` with {key, token} as JSON answers true or false, or why the key is invalid."""

import json

from workers import Request, Response, WorkerEntrypoint

from registry.access.public_keys import parse_public_keys
from registry.access.signed_tokens import read_token
from registry.cloudflare.crypto import WebCrypto


class Default(WorkerEntrypoint):
    """Verifies one signature a request."""

    async def fetch(self, request: Request) -> Response:
        """Answer."""
        asked = json.loads(await request.text())
        token = read_token(asked["token"])
        assert token is not None
        try:
            (key,) = parse_public_keys(asked["key"])
            answer = await WebCrypto().verify(key, token.signature, token.signed)
        except ValueError as error:
            return Response(json.dumps(str(error)))
        return Response(json.dumps(answer))
