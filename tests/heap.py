"""Runs a garbage collection of 1.7 million objects, whose memory tests/heap.mjs measures in Pyodide.

It imports only modules of the Worker and of tests/, since Pyodide has no others.
"""

import json
import random
from typing import Any, cast

from registry.ports.platform import Machine, Platform, make_platform
from registry.spec.endpoints import Mode
from registry.spec.names import RepositoryName
from registry.storage.calls import MAX_CALLS, Calls
from registry.upkeep import collection
from registry.upkeep.collection import Collector
from registry.upkeep.garbage import BLOBS, Rules
from tests.fakes.many_images import NAME, ManyImages

IMAGES, LAYERS, ORPHANS = 100_000, 15, 1_000


async def collect(platform: Platform) -> int:
    """Collect the garbage of the repository; returns the number of R2 calls."""
    calls = Calls(MAX_CALLS)
    run = collection.begin(platform, RepositoryName(NAME), Rules(Mode.UNTAGGED, 3600))
    garbage = await Collector(platform, run, calls).collect()
    assert garbage.counts[BLOBS] == ORPHANS, garbage
    return calls.taken


async def main(images: int = IMAGES, page_with_metadata: int = 100) -> str:
    """Return the numbers of calls and objects as JSON, for tests/heap.mjs."""
    now = 1_800_000_000.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    bucket = ManyImages(lambda: now, images, LAYERS, ORPHANS)
    bucket.page_with_metadata = page_with_metadata
    nothing = cast(Any, None)
    machine = Machine(nothing, nothing, lambda: now, sleep, lambda count: random.randbytes(count).hex())
    return json.dumps({"calls": await collect(make_platform(bucket, nothing, machine)), "objects": bucket.size})
