"""Helpers of the tests: registries with upstreams, and pulls through them."""

import json
import random
from collections.abc import Mapping
from typing import Any

from registry.settings import read_settings
from tests.fakes.client import VARIABLES, Answer, FakeRegistry, digest_of
from tests.fakes.machine import Reply, WebRequest
from tests.fakes.upstream import UPSTREAM, FakeUpstream
from tests.invariants import check_links

SMALL = b"a small layer"
LARGE = random.Random(6).randbytes(9 * 1024 * 1024 + 1)  # a link to data
LAYERS = [SMALL, LARGE, b""]
NAME = "team/app"


def with_upstreams(*entries: Mapping[str, Any], **variables: str) -> FakeRegistry:
    """Return a registry with these entries of REGISTRIES_JSON."""
    values = {**VARIABLES, "REGISTRIES_JSON": json.dumps(entries), **variables}
    settings = read_settings(values.get)
    assert len(settings.upstreams) == len(entries)
    return FakeRegistry(settings=settings)


async def get(registry: FakeRegistry, path: str, method: str = "GET", **headers: str) -> Answer:
    """Pull as an account that may only pull."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await registry.call(method, f"/v2/{NAME}/{path}", headers=sent, user=("reader", "looks-only"))


async def blob(registry: FakeRegistry, data: bytes, method: str = "GET", **headers: str) -> Answer:
    """Pull a blob as that account."""
    return await get(registry, f"blobs/{digest_of(data)}", method, **headers)


def holds_only_verified_bytes(registry: FakeRegistry) -> None:
    """Assert that all stored objects match their digests, all links lead to data, and no data lacks a link."""
    check_links(registry)
    targets = {found.attributes.metadata.get("target") for found in registry.bucket.objects.values()}
    for key, stored in registry.bucket.objects.items():
        if key.startswith("_data/"):
            assert key.removeprefix("_data/") in targets
        elif ":" in key and "target" not in stored.attributes.metadata:
            algorithm, _, expected = key.rpartition("/")[2].partition(":")
            assert digest_of(stored.data, algorithm) == f"{algorithm}:{expected}"
        elif "target" in stored.attributes.metadata:
            data = registry.bucket.data(f"_data/{stored.attributes.metadata['target']}")
            assert digest_of(data) == key.rpartition("/")[2]
    assert not registry.bucket.uploads


def fail(registry: FakeRegistry, upstream: FakeUpstream, failure: str) -> None:
    """Make the upstream fail."""

    async def silent(request: WebRequest) -> Reply:
        await registry.clock.sleep(3600)
        raise AssertionError

    if failure == "gone":
        del registry.web.servers[UPSTREAM]
    elif failure == "silent":
        registry.web.servers[UPSTREAM] = silent
    else:
        upstream.quirk = lambda *_: Reply(int(failure), {"www-authenticate": "Negotiate"}, [b"secret"])
