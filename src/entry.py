"""The Worker: one fetch handler, which hands every request to the registry."""

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

# They change nothing, unless they bring something from another registry: there is nothing to finish when the client
# goes away.
_READS = frozenset({"GET", "HEAD"})

# Made by the first request and kept while the isolate lives. Not at import: the top level is snapshotted at deploy.
_registry: Registry | None = None


def _the_registry() -> Registry:
    global _registry
    if _registry is None:
        _registry = _make_registry()
    return _registry


def _make_registry() -> Registry:
    # The raw environment: the SDK's wrapper of a bucket copies bytes one by one (registry.cloudflare.r2).
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
        """The next step of the clean-up; asked for more often than the clock does, it does its steps sooner."""
        registry = _the_registry()
        settings = registry.settings
        await tick(registry.platform, settings.upkeep, Calls(settings.r2_calls), keep_pushed=bool(settings.upstreams))

    async def fetch(self, request: Request) -> Any:
        """Answer one request."""
        registry = _the_registry()
        core = to_request(request, self.ctx.waitUntil)
        answering: Awaitable[CoreResponse] = handle(registry, core)
        if core.method not in _READS or registry.settings.upstreams:
            # A client that resets its connection would otherwise stop us anywhere, and no `finally` would run
            # (docs/adr/0009).
            answering = asyncio.ensure_future(answering)
            self.ctx.waitUntil(answering)
        return to_response(await answering)
