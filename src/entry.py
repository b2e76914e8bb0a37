"""The Worker's entrypoint: HTTP requests go to the registry, cron triggers run the clean-up."""

import asyncio
import secrets
import time
from collections.abc import Awaitable
from typing import Any

from workers import Request, WorkerEntrypoint, import_from_javascript

from registry.api.http import Response as CoreResponse
from registry.api.router import handle
from registry.cloudflare.analytics import AnalyticsDataset
from registry.cloudflare.crypto import WebCrypto
from registry.cloudflare.messages import to_request, to_response
from registry.cloudflare.r2 import R2Storage
from registry.cloudflare.streams import JsStreams, present
from registry.cloudflare.web import JsWeb
from registry.ports.platform import Machine, make_platform
from registry.registry import Registry
from registry.settings import read_settings
from registry.storage.calls import Calls
from registry.upkeep.cron import tick

# Requests with these methods may be cancelled when the client disconnects, since they change nothing. The exception:
# with upstream registries configured, they store copies.
_READS = frozenset({"GET", "HEAD"})

# The first request creates it, and it lives as long as the isolate. Import does not create it, because a deployment
# takes a snapshot of the imported modules.
_registry: Registry | None = None


def _the_registry() -> Registry:
    global _registry
    if _registry is None:
        _registry = _make_registry()
    return _registry


def _make_registry() -> Registry:
    # The raw environment, because the SDK's wrapper of a bucket copies buffers byte by byte (registry.cloudflare.r2).
    env = import_from_javascript("cloudflare:workers").env

    def variable(name: str) -> str | None:
        value = present(getattr(env, name, None))
        return value if isinstance(value, str) else None

    metrics = present(getattr(env, "METRICS", None))
    points = None if metrics is None else AnalyticsDataset(metrics)
    machine = Machine(WebCrypto(), JsWeb(), time.time, asyncio.sleep, secrets.token_hex, points)
    return Registry(make_platform(R2Storage(env.REGISTRY), JsStreams(), machine), read_settings(variable))


class Default(WorkerEntrypoint):
    """The Worker's entrypoint. Every public method of this class is callable from outside."""

    async def scheduled(self, *_: object) -> None:
        """Run the next step of the clean-up (cron trigger). More frequent calls only let the clean-up finish sooner."""
        registry = _the_registry()
        settings = registry.settings
        await tick(registry.platform, settings.upkeep, Calls(settings.r2_calls), keep_pushed=bool(settings.upstreams))

    async def fetch(self, request: Request) -> Any:
        """Answer one HTTP request."""
        registry = _the_registry()
        core = to_request(request, self.ctx.waitUntil)
        answering: Awaitable[CoreResponse] = handle(registry, core)
        if core.method not in _READS or registry.settings.upstreams:
            # Without `waitUntil`, a connection reset by the client stops this request at any await, and no `finally`
            # block runs (docs/adr/0009).
            answering = asyncio.ensure_future(answering)
            self.ctx.waitUntil(answering)
        return to_response(await answering)
