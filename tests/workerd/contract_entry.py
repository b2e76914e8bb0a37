"""A Worker that runs the contract suite on the real binding: `GET /` lists the cases, `POST /<case>` runs one."""

import asyncio
import json
import secrets
import time
import traceback
from typing import Any

import js
from workers import Request, Response, WorkerEntrypoint, import_from_javascript

from registry.cloudflare.crypto import WebCrypto
from registry.cloudflare.r2 import R2Storage
from registry.cloudflare.streams import JsSource, JsStreams
from registry.cloudflare.web import JsWeb
from registry.ports.platform import Machine, make_platform
from tests.contract.storage_contract import CASES, PRODUCTION_ONLY, Bench


def _source(data: bytes, size: int | None) -> JsSource:
    """A body as a request brings it: with a length, a FixedLengthStream; without, an identity stream."""
    stream: Any = js.IdentityTransformStream.new() if size is None else js.FixedLengthStream.new(size)

    async def feed() -> None:
        writer = stream.writable.getWriter()
        for at in range(0, len(data), 65_536):
            await writer.write(js.Uint8Array.new(js.Uint8Array.new(memoryview(data)[at : at + 65_536])))
        await writer.close()

    feeding = asyncio.ensure_future(feed())
    # A case may refuse the body: then nobody reads it, and the writer's failure is nobody's.
    feeding.add_done_callback(lambda done: done.cancelled() or done.exception())
    return JsSource(stream.readable, size)


class Default(WorkerEntrypoint):
    """Runs one case a request."""

    async def fetch(self, request: Request) -> Response:
        """List the cases, or run one."""
        name = request.url.rpartition("/")[2]
        if not name:
            return Response(json.dumps([name for name in CASES if name not in PRODUCTION_ONLY]))
        bucket = R2Storage(import_from_javascript("cloudflare:workers").env.REGISTRY)
        machine = Machine(WebCrypto(), JsWeb(), time.time, asyncio.sleep, secrets.token_hex)
        platform = make_platform(bucket, JsStreams(), machine)
        try:
            await CASES[name](Bench(platform, bucket, _source, asyncio.sleep))
        except Exception:  # noqa: BLE001 - the harness prints it
            return Response(traceback.format_exc(), status=500)
        return Response("ok")
