"""A registry on fake bindings, with a client's methods to call it."""

import asyncio
import base64
import hashlib
import json
import random
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from registry.api.http import Request, Response
from registry.api.router import handle
from registry.ports.platform import Machine, make_platform
from registry.ports.storage import ClientGone, Source, Storage
from registry.ports.web import WebError
from registry.registry import Registry
from registry.settings import Settings, read_settings
from registry.storage.calls import Calls
from registry.telemetry.metrics import DataPoints
from registry.upkeep.cron import Upkeep, tick
from tests.fakes.machine import FakeCrypto, FakeWeb, TokenClock
from tests.fakes.r2 import MAX_OPEN_BODIES, FakeR2, Usage
from tests.fakes.streams import Chunk, FakeSource, FakeStreams

START = 1_800_000_000.0  # seconds since the epoch
_MAX_TURNS = 6  # turns of the loop for an R2 call in `at_once`
MAX_CALLS = 50  # R2 calls of one request, unless a test says otherwise: what clients wait for stays small
ORIGIN = "https://registry.example"
VARIABLES = {
    "USERNAME": "hello",
    "PASSWORD": "world",
    "READONLY_USERNAME": "reader",
    "READONLY_PASSWORD": "looks-only",
}
SETTINGS = read_settings(VARIABLES.get)


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """The digest of bytes as a string."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def basic(name: str, secret: str) -> str:
    """The value of an Authorization header for Basic."""
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


class Clock:
    """A fake clock that stands still while any task can run; when all tasks sleep, it jumps to the next deadline."""

    def __init__(self) -> None:
        self.now = START
        self._deadlines: list[float] = []
        TokenClock.clock = self

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Sleep on this clock."""
        deadline = self.now + seconds
        self._deadlines.append(deadline)
        try:
            while self.now < deadline:
                # Each sleeper is ready in every turn of the loop. If no other task is, time passes.
                ready = len(asyncio.get_running_loop()._ready)  # type: ignore[attr-defined] # noqa: SLF001
                if ready < len(self._deadlines):
                    self.now = max(self.now, min(self._deadlines))
                await asyncio.sleep(0)
        finally:
            self._deadlines.remove(deadline)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response with its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool = True  # whether the body arrived to its end

    @property
    def codes(self) -> list[str]:
        """The error codes of the body."""
        return [error["code"] for error in json.loads(self.body)["errors"]]

    @property
    def location(self) -> str:
        """The Location header."""
        return self.headers["Location"]


@dataclass(slots=True)
class FakeRegistry:
    """A registry, its bucket and its clock. Two that share a bucket are two isolates."""

    clock: Clock = field(default_factory=Clock)
    bucket: FakeR2 = field(init=False)
    settings: Settings = SETTINGS
    seed: int = 0
    registry: Registry = field(init=False)
    # Seconds between two requests; the default respects R2's limit of one write per second to a key.
    pause: float = 1.0
    # A storage in front of the bucket, to inject faults.
    storage: Storage | None = None
    # Whether requests run concurrently, so that the calls of one cannot be counted.
    side_by_side: bool = False
    # Clients disconnect after this number of bytes of a response.
    leave_after: int | None = None
    crypto: FakeCrypto = field(default_factory=FakeCrypto)
    web: FakeWeb = field(default_factory=FakeWeb)
    points: DataPoints | None = None

    def __post_init__(self) -> None:
        """Start with an empty bucket."""
        self.bucket = FakeR2(self.clock)
        self.restart()

    def restart(self) -> None:
        """Replace the isolate by a new one on the same bucket."""
        randomness = random.Random(f"{self.seed} {self.clock.now}")
        storage = self.storage or self.bucket
        machine = Machine(
            self.crypto,
            self.web,
            self.clock,
            self.clock.sleep,
            lambda n: randomness.randbytes(n).hex(),
            self.points,
        )
        self.registry = Registry(make_platform(storage, FakeStreams(), machine), self.settings)

    async def tick(self) -> Upkeep:
        """Run the cron trigger once."""
        settings = self.registry.settings
        calls = Calls(settings.r2_calls)
        return await tick(self.registry.platform, settings.upkeep, calls, keep_pushed=bool(settings.upstreams))

    async def call(
        self,
        method: str,
        url: str,
        body: bytes | Iterable[Chunk] = b"",
        *,
        headers: Mapping[str, str] | None = None,
        user: tuple[str, str] | None = ("hello", "world"),
        budget: int = MAX_CALLS,
    ) -> Answer:
        """Send a request. Bytes get a Content-Length; a body of chunks has one only if `headers` has it."""
        self.clock.now += self.pause
        sent = {name.lower(): value for name, value in (headers or {}).items()}
        if user is not None:
            sent["authorization"] = basic(*user)
        if isinstance(body, bytes):
            sent.setdefault("content-length", str(len(body)))
            source = FakeSource([body[at : at + 65_536] for at in range(0, len(body), 65_536)], len(body))
        else:
            source = FakeSource(body, int(sent["content-length"]) if "content-length" in sent else None)
        path, _, query = url.partition("?")
        running: list[asyncio.Future[None]] = []
        request = Request(
            method,
            ORIGIN,
            path,
            query,
            sent.get,
            source,
            lambda work: running.append(asyncio.ensure_future(work)),
        )
        before = self.bucket.usage
        if not self.side_by_side:
            self.bucket.usage = Usage()
        answer = await self._read(await handle(self.registry, request))
        await asyncio.gather(*running)
        if self.side_by_side:
            return answer
        assert self.web.open_bodies == 0, "a response of another server was neither read nor cancelled"
        used = self.bucket.usage
        assert used.class_a + used.class_b + used.free <= budget, "more R2 calls than the test allows"
        assert self.bucket.open_bodies == 0, "a body was neither read nor cancelled"
        for name in ("class_a", "class_b", "free", "written", "read"):
            setattr(self.bucket.usage, name, getattr(before, name) + getattr(used, name))
        return answer

    async def at_once(self, seed: int, *requests: Awaitable[Answer]) -> list[Answer]:
        """Run requests concurrently; the seed decides how many turns of the loop each R2 call takes."""
        turns = random.Random(seed)
        self.bucket.delay = lambda: turns.randrange(_MAX_TURNS)
        self.side_by_side = True
        self.bucket.open_limit = MAX_OPEN_BODIES * len(requests)
        answers = await asyncio.gather(*requests)
        self.side_by_side = False
        self.bucket.delay = lambda: 1
        assert self.bucket.open_bodies == 0
        return list(answers)

    async def _read(self, response: Response) -> Answer:
        body: Any = response.body
        if body is None or isinstance(body, str | bytes):
            text = body.encode() if isinstance(body, str) else body or b""
            return Answer(response.status, response.headers, text)
        data = bytearray()
        source: Source = body
        try:
            while self.leave_after is None or len(data) < self.leave_after:
                chunk = await source.read(65_536)
                if not chunk:
                    return Answer(response.status, response.headers, bytes(data))
                data += chunk
        except (ClientGone, WebError):
            pass
        await source.cancel()
        return Answer(response.status, response.headers, bytes(data), is_whole=False)

    async def push_blob(self, name: str, data: bytes) -> str:
        """Push a blob with POST and PUT, as containerd does; returns the digest."""
        digest = digest_of(data)
        started = await self.call("POST", f"/v2/{name}/blobs/uploads/")
        assert started.status == 202, started
        done = await self.call("PUT", with_query(started.location, digest=digest), data)
        assert done.status == 201, done
        return digest


def with_query(location: str, **pairs: str) -> str:
    """A location with further query parameters."""
    mark = "&" if "?" in location else "?"
    return location + mark + "&".join(f"{key}={value}" for key, value in pairs.items())
