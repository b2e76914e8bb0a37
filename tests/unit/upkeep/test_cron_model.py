"""The clean-up on random buckets while calls fail: it visits each repository in bounded time.

The buckets have repositories of every size, nested, flat and empty ones, ones whose listing always fails or that end
every tick that touches them, and foreign keys. R2's pages are small and a tick has few calls, so small buckets suffice.
"""

import contextlib
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from registry.ports.storage import NO_ATTRIBUTES, Attributes, StorageError
from registry.settings import read_settings
from tests.fakes.client import VARIABLES, FakeRegistry, digest_of
from tests.images import MANIFEST, image

TICK = 600  # seconds
DAY = 24 * 3600
PASSES = 5
MAX_TICKS = PASSES * (DAY // TICK + 20)
UUID = "00000000-0000-0000-0000-000000000000"
ODD_KEYS = (
    *("a/manifests/sha256:abc", "a/manifests/", "a/manifests/-", "a/manifests/" + "x" * 200, "a/manifests/blake3:00"),
    *(
        "a/blobs/x",
        "a/blobs/sha256:" + "A" * 64,
        "a/blobs/uploads/x",
        "a//blobs/x",
        "/a/blobs/x",
        "A/blobs/x",
        "a/B/blobs/x",
    ),
    *(
        "a/_referrers/x",
        "a/_referrers/x/y",
        "a/uploads/x",
        f"a/uploads/{UUID}/x",
        f"a/uploads/{UUID}",
        "_refs/x",
        "_data/x",
    ),
    *(
        "a/_gc/x",
        "\U0010ffff",
        "é/manifests/1",
        "blobs/x",
        "manifests/1",
        "_refs/x/y/z",
        "a/blobs/_gc",
        "x" * 300 + "/blobs/y",
    ),
)


class Ended(BaseException):
    """The isolate was ended."""


@dataclass
class Bucket:
    """A bucket, and what must be gone from it in the end."""

    registry: FakeRegistry
    turns: random.Random
    garbage: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    calls: int = 0
    ends_at: int | None = None  # the call that the isolate does not survive
    fails_at: int | None = None  # the first of a few calls that fail
    # By the beginning of a key, or with "=" the whole key: what happens to a call on it.
    traps: dict[str, type[BaseException]] = field(default_factory=dict)

    def put(self, key: str, data: bytes = b"x", attributes: Attributes = NO_ATTRIBUTES) -> str:
        """Seed an object."""
        self.registry.bucket.seed(key, data, attributes, None)
        return key

    def fail(self, _: str, key: str) -> None:
        """`FakeR2.fail`."""
        self.calls += 1
        if self.calls == self.ends_at:
            raise Ended
        if self.fails_at is not None and 0 <= self.calls - self.fails_at < 5:
            raise StorageError("on purpose")
        for prefix, error in self.traps.items():
            if key.startswith(prefix) or prefix == f"={key}":
                raise error("a trap")

    def add_repository(self, name: str, size: int, *, is_healthy: bool) -> None:
        """Add an image, unreferenced blobs, and leftovers of a session and a deletion."""
        manifest = json.dumps(image(b"{}", [b"layer"])).encode()
        for reference in (digest_of(manifest), "latest"):
            self.kept.add(self.put(f"{name}/manifests/{reference}", manifest, Attributes(MANIFEST)))
        for blob in (b"{}", b"layer"):
            self.kept.add(self.put(f"{name}/blobs/{digest_of(blob)}"))
        left = [self.put(f"{name}/blobs/{digest_of(str(number).encode())}") for number in range(size)]
        left.append(self.put(f"{name}/uploads/{UUID}/{0:016}"))
        left.append(self.put(f"{name}/manifests/{digest_of(b'gone')}", b""))
        if is_healthy:
            self.garbage.update(left)

    def add_emptied(self, name: str) -> None:
        """Add a repository that has only its register."""
        metadata = {"phase": "idle", "run": "x", "lease": "0.0", "nonce": "x"}
        self.garbage.add(self.put(f"{name}/_gc", b"nonce", Attributes(metadata=metadata)))


def make(seed: int) -> Bucket:
    """Make a bucket from a seed."""
    turns = random.Random(seed)
    settings = replace(read_settings({**VARIABLES, "GC_MODE": "untagged"}.get), r2_calls=60)
    bucket = Bucket(FakeRegistry(settings=settings), turns)
    bucket.put("_registry/format")
    for number in range(turns.randrange(5, 40)):
        name = "/".join([*turns.choices(["a", "b", "team", "x-y"], k=turns.randrange(3)), f"r{number}"])
        kind = turns.randrange(12)
        if kind < 4:
            bucket.add_emptied(name)
        elif kind < 6:
            bucket.add_repository(name, turns.choice([3, 30]), is_healthy=False)
            trap = turns.choice([f"{name}/blobs/", f"{name}/manifests/", f"={name}/"])
            # A single page of a listing does not end the isolate.
            errors = [StorageError, ValueError] if trap[0] == "=" else [StorageError, ValueError, Ended]
            bucket.traps[trap] = turns.choice(errors)
        else:
            bucket.add_repository(name, turns.choice([0, 2, 5, 100]), is_healthy=True)
    for key in turns.sample(ODD_KEYS, turns.randrange(len(ODD_KEYS))):
        bucket.put(key, turns.choice([b"", b"odd"]))
    if turns.random() < 0.3:
        for number in range(turns.randrange(2_000)):
            bucket.put(f"foreign/{number}")
    for number in range(turns.randrange(40)):
        bucket.garbage.add(bucket.put(f"_data/{number * 7919:032x}"))
    bucket.registry.clock.now += 3 * DAY
    bucket.registry.bucket.page = turns.choice([5, 10, 1000])
    bucket.registry.bucket.page_with_metadata = turns.choice([5, 10, 100])
    bucket.registry.bucket.fail = bucket.fail
    return bucket


async def run(bucket: Bucket, trouble: Callable[[Bucket], None]) -> int:
    """Run ticks until so many passes are over; return the number of ticks."""
    registry, passes, ticks = bucket.registry, set[float](), 0
    while len(passes) <= PASSES:
        ticks += 1
        assert ticks <= MAX_TICKS, f"{len(passes)} passes in {ticks} ticks"
        registry.clock.now += TICK
        bucket.calls, bucket.ends_at, bucket.fails_at = 0, None, None
        trouble(bucket)
        registry.restart()
        with contextlib.suppress(Ended):
            passes.add((await registry.tick()).began)
    return ticks


def any_trouble(bucket: Bucket) -> None:
    """Make every third tick end early, or meet a storage that fails for a while."""
    kind = bucket.turns.randrange(6)
    if kind == 0:
        bucket.ends_at = bucket.turns.randrange(1, 80)
    elif kind == 1:
        bucket.fails_at = bucket.turns.randrange(1, 80)


@pytest.mark.parametrize("seeds", [range(at, at + 5) for at in range(0, 30, 5)], ids=lambda seeds: f"{seeds.start}")
async def test_every_repository_has_its_turn(seeds: range) -> None:
    """All garbage and nothing else is gone after so many passes, whatever ends the ticks."""
    for seed in seeds:
        bucket = make(seed)
        with contextlib.redirect_stdout(io.StringIO()):
            await run(bucket, any_trouble)
        left = bucket.garbage.intersection(bucket.registry.bucket.objects)
        assert not left, f"seed {seed}"
        assert bucket.kept <= set(bucket.registry.bucket.objects), f"seed {seed}"


async def test_each_tick_gets_on() -> None:
    """Only what always fails, or ends every tick that touches it, stays."""
    for seed in range(100, 115):
        bucket = make(seed)
        with contextlib.redirect_stdout(io.StringIO()):
            await run(bucket, lambda _: None)
        assert not bucket.garbage.intersection(bucket.registry.bucket.objects), f"seed {seed}"
