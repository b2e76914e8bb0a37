"""The worker that runtime.test.mjs asks about itself: one route per behaviour."""

import asyncio
import json
import os
import random
import secrets
import sys
import tempfile  # noqa: F401  its import must work
import time
import uuid
from random import choice
from urllib.parse import parse_qs, urlsplit

import extra  # found through probe.pth
import js
import jwt
from pyodide.ffi import to_js
from workers import Request, Response, WorkerEntrypoint, import_from_javascript

raw_env = import_from_javascript("cloudflare:workers").env

IMPORT_TIME = time.time()


def _refused(attempt):
    try:
        attempt()
    except Exception as error:
        return str(error)
    return None


AT_IMPORT = {
    "random.random": _refused(random.random),
    "choice": _refused(lambda: choice("ab")),
    "random.Random": _refused(random.Random),
    "secrets.token_hex": _refused(secrets.token_hex),
    "uuid.uuid4": _refused(uuid.uuid4),
    "os.urandom": _refused(lambda: os.urandom(4)),
}
SEEDED_AT_IMPORT = random.Random(1).random()


async def report(self, request):
    return Response.json(
        {
            "at_import": AT_IMPORT,
            "import_time": IMPORT_TIME,
            "now": time.time(),
            "random": [random.random(), choice(range(10**9)), SEEDED_AT_IMPORT],
            "uuid": str(uuid.uuid4()),
            "hash": hash("registry"),
            "path": sys.path,
            "jwt": jwt.__file__,
            "json": json.__file__,
            "extra": extra.VALUE,
            "greeting": self.env.GREETING,
            "secret": self.env.SECRET,
            "bindings": list(js.Object.keys(raw_env)),
            "request": type(request) is Request,
            "headers": request.headers.get_all("x-probe"),
            "wrapped": type(self.env.REGISTRY).__name__,
            "raw": raw_env.REGISTRY.constructor.name,
            "read_only": _refused(lambda: open(__file__, "a")),
        }
    )


async def reply(self, request):
    kind = urlsplit(request.url).query
    return {"none": None, "str": "text", "dict": {"a": 1}, "tuple": (1,), "js": js.Response.new("js")}[kind]


async def fail(self, request):
    raise LookupError("on purpose")


async def later(self, request):
    async def work(name):
        await asyncio.sleep(0.01)
        await raw_env.REGISTRY.put(f"later/{name}", name)
        print(f"later: {name}")

    async def failing():
        await asyncio.sleep(0.01)
        try:
            raise LookupError("in the background")
        finally:
            print("later: failing")

    self.ctx.waitUntil(work("coroutine"))
    self.ctx.waitUntil(asyncio.create_task(work("task")))
    self.ctx.waitUntil(raw_env.REGISTRY.put("later/promise", "x"))
    self.ctx.waitUntil(failing())
    return Response("at once")


async def upload(self, request):
    async def store():
        print("upload: begins")
        try:
            await raw_env.REGISTRY.put("upload", request.body)
        except Exception as error:
            print(f"upload: failed with {error}")
        finally:
            kept = await raw_env.REGISTRY.head("upload")
            print(f"upload: over, kept {bool(kept)}")

    task = asyncio.create_task(store())
    self.ctx.waitUntil(task)
    await task
    return Response("stored")


async def calls(self, request):
    """Make `n` heads, one after the other and side by side, half through the wrapper, and one put after the reply."""
    n = int(parse_qs(urlsplit(request.url).query)["n"][0])

    async def one(index):
        await asyncio.sleep(0)
        bucket = raw_env.REGISTRY if index % 2 else self.env.REGISTRY
        await bucket.head(f"{n}/{index}")

    for index in range(n):
        await one(index)
    await asyncio.gather(*[one(index) for index in range(n)])

    async def after():
        await asyncio.sleep(0.005)
        await raw_env.REGISTRY.put("after", "x" * n)
        print("calls: after")

    self.ctx.waitUntil(after())
    return Response("ok")


async def bytes_moved(self, request):
    bucket = raw_env.REGISTRY
    await bucket.put("moved", request.body)  # 1000 bytes, by Content-Length
    # Not a dict within a dict: R2 would take the dict's own `length`, which is 2.
    stored = await bucket.get("moved", range=to_js({"offset": 0, "length": 300}))
    pipe = js.FixedLengthStream.new(300)
    piped = asyncio.ensure_future(stored.body.pipeTo(pipe.writable))
    multipart = await bucket.createMultipartUpload("parts")
    part = await bucket.resumeMultipartUpload("parts", multipart.uploadId).uploadPart(1, pipe.readable)
    await piped
    await multipart.complete(to_js([part]))
    await bucket.put("parts", "never", onlyIf=to_js({"etagDoesNotMatch": "*"}))
    try:
        await bucket.put("k" * 1025, "too long a key")
    except Exception as error:
        print(error)
    await bucket.delete("moved")
    return Response("ok")


ROUTES = {
    "/report": report,
    "/reply": reply,
    "/fail": fail,
    "/later": later,
    "/upload": upload,
    "/v2/": calls,
    "/v2/a/blobs/b/manifests/latest": calls,
    "/v2/a/blobs/uploads/some-id": calls,
    "/v2/a/tags/list": calls,
    "/v2/moved/blobs/uploads/": bytes_moved,
}


class Default(WorkerEntrypoint):
    async def fetch(self, request):
        return await ROUTES[urlsplit(request.url).path](self, request)

    async def scheduled(self, controller, env, ctx):
        # workerd hands a class nothing for the last two: it has them as attributes.
        await self.env.REGISTRY.put("scheduled", controller.cron)
        print(f"scheduled: {controller.cron!r} {env} {ctx}")
