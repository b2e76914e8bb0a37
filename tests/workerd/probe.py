"""The Worker with which runtime.test.mjs tests the runtime: one route per behaviour."""

import asyncio
from urllib.parse import parse_qs, urlsplit

import js
from pyodide.ffi import to_js
from workers import Response, WorkerEntrypoint, import_from_javascript


def _raw_env():
    return import_from_javascript("cloudflare:workers").env


async def report(self, request):
    return Response.json(
        {
            "greeting": self.env.GREETING,
            "secret": self.env.SECRET,
            "bindings": list(js.Object.keys(_raw_env())),
            "raw": _raw_env().REGISTRY.constructor.name,
        }
    )


async def upload(self, request):
    async def store():
        print("upload: begins")
        try:
            await _raw_env().REGISTRY.put("upload", request.body)
        except Exception as error:
            print(f"upload: failed with {error}")
        finally:
            kept = await _raw_env().REGISTRY.head("upload")
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
        bucket = _raw_env().REGISTRY if index % 2 else self.env.REGISTRY
        await bucket.head(f"{n}/{index}")

    for index in range(n):
        await one(index)
    await asyncio.gather(*[one(index) for index in range(n)])

    async def after():
        await asyncio.sleep(0.005)
        await _raw_env().REGISTRY.put("after", "x" * n)
        print("calls: after")

    self.ctx.waitUntil(after())
    return Response("ok")


async def bytes_moved(self, request):
    bucket = _raw_env().REGISTRY
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
