"""Every order in which requests can meet: the shipped code under a scheduler that owns every R2 call and the clock.

A schedule says which actor's next call happens. Two calls that touch nothing in common can be swapped without anybody
noticing, so only one order of them is tried (sleep sets: Godefroid, "Partial-Order Methods for the Verification of
Concurrent Systems", 1996). Each schedule runs from the start on a fresh bucket.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import cast

from registry.ports.platform import Machine, Platform, make_platform
from registry.ports.storage import MAX_LIST_KEYS, Listing, Storage, StorageError
from registry.spec.errors import Problem, RegistryError
from tests.fakes.client import START, Clock
from tests.fakes.machine import FakeCrypto, FakeWeb
from tests.fakes.r2 import MAX_OPEN_BODIES, FakeR2
from tests.fakes.streams import FakeStreams

TIME_PASSES = -1.0  # what an actor sleeps for that makes LONG seconds pass at any moment
LONG = 400.0  # seconds: longer than any lease and its margin
SLOW = 95.0  # seconds that a call takes to fail

_actor: ContextVar[int] = ContextVar("actor")
_CALL_SECONDS = 0.001  # that an R2 call takes: no two objects are put at the same time
_MAX_STEPS = 2_000  # calls of one schedule: more is an endless loop


class Violation(AssertionError):
    """Something that must never happen did; the message has the schedule."""


@dataclass(frozen=True, slots=True)
class Step:
    """An R2 call that waits for its turn, or a sleep."""

    call: str
    keys: tuple[str, ...] = ()

    @property
    def writes(self) -> bool:
        """Whether it changes what it touches."""
        return self.call not in ("head", "get", "list")

    def touches(self, other: "Step") -> bool:
        """Whether the order of the two can be noticed."""
        if "clock" in (self.call, other.call):
            return True
        if not (self.writes or other.writes):
            return False
        return any(_same(self, mine, other, theirs) for mine in self.keys for theirs in other.keys)


def _same(one: Step, mine: str, other: Step, theirs: str) -> bool:
    if one.call == "list":
        return theirs.startswith(mine)
    if other.call == "list":
        return mine.startswith(theirs)
    return mine == theirs


class Crash(BaseException):
    """The isolate of an actor is gone."""


@dataclass(slots=True)
class Trouble:
    """What goes wrong at an actor's call number `at`.

    "crash": the actor's isolate, before it; "lost": its reply; "slow": it and the next one take SLOW seconds to fail,
    without effect; "fail": it and the next two fail, so that trying again does not help.
    """

    kind: str = ""
    at: int = -1


class GatedR2(FakeR2):
    """The bucket; within a schedule every call waits until the scheduler lets it happen."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.scheduler: Scheduler | None = None
        self.open_limit = MAX_OPEN_BODIES * 10
        self.page = MAX_LIST_KEYS  # keys of a listing
        self._inside = False

    async def _call(self, call: str, key: str) -> None:
        if self.scheduler is not None and not self._inside:
            await self.scheduler.wait(Step(call, (key,)))

    async def delete(self, keys: Sequence[str]) -> None:
        if self.scheduler is not None:
            await self.scheduler.wait(Step("delete", tuple(keys)))
        self._inside = True
        try:
            await super().delete(keys)
        finally:
            self._inside = False

    async def list(self, prefix: str, **options: object) -> Listing:
        if self.scheduler is not None:
            await self.scheduler.wait(Step("list", (prefix,)))
        self._inside = True
        options["limit"] = min(int(str(options.get("limit", MAX_LIST_KEYS))), self.page)
        try:
            return await super().list(prefix, **options)  # type: ignore[arg-type]
        finally:
            self._inside = False


class _Lossy:
    """The bucket, whose replies may get lost."""

    def __init__(self, bucket: GatedR2) -> None:
        self._bucket = bucket

    def __getattr__(self, name: str) -> Callable[..., Awaitable[object]]:
        async def call(*arguments: object, **options: object) -> object:
            result = await getattr(self._bucket, name)(*arguments, **options)
            assert self._bucket.scheduler is not None
            self._bucket.scheduler.answer()
            return result

        return call


Actor = Callable[[Platform], Awaitable[object]]


@dataclass(slots=True)
class World:
    """A bucket, its time, and what became of each actor: "done", "refused", "failed" or "crashed"."""

    bucket: GatedR2
    clock: Clock
    outcomes: list[str] = field(default_factory=list)
    results: list[object] = field(default_factory=list)
    acts: list["Actor"] = field(default_factory=list)

    def platform(self, sleep: Callable[[float], Awaitable[None]] | None = None, seed: int = 0) -> Platform:
        """An isolate of its own."""
        randomness = random.Random(seed)
        machine = Machine(
            FakeCrypto(),
            FakeWeb(),
            self.clock,
            sleep or self.clock.sleep,
            lambda count: randomness.randbytes(count).hex(),
        )
        storage = cast(Storage, _Lossy(self.bucket)) if sleep else self.bucket
        return make_platform(storage, FakeStreams(), machine)


class Scheduler:
    """Runs actors; `choose` says whose turn it is."""

    def __init__(self, world: World, troubles: Sequence[Trouble]) -> None:
        self._world = world
        self._troubles = troubles
        self._waiting: list[list[tuple[Step, asyncio.Future[None]]]] = []
        self._sleeping: list[list[tuple[float, asyncio.Future[None]]]] = []
        self._counts: list[int] = []
        self._lost: set[int] = set()

    async def wait(self, step: Step) -> None:
        """In an actor: until this call's turn. Raises Crash."""
        actor = _actor.get()
        number, self._counts[actor] = self._counts[actor], self._counts[actor] + 1
        trouble = self._troubles[actor]
        if trouble.kind == "crash" and number >= trouble.at:
            raise Crash
        if trouble.kind == "slow" and 0 <= number - trouble.at < 2:
            await self._turn(Step("clock"))
            self._world.clock.now += SLOW
            raise StorageError("internal error, at last")
        await self._turn(step)
        if trouble.kind == "fail" and 0 <= number - trouble.at < 3:
            raise StorageError("internal error")
        if trouble.kind == "lost" and number == trouble.at:
            self._lost.add(actor)

    async def _turn(self, step: Step) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[_actor.get()].append((step, turn))
        await turn

    def answer(self) -> None:
        """In an actor: the call's reply arrives, or does not."""
        actor = _actor.get()
        if actor in self._lost:
            self._lost.discard(actor)
            raise StorageError("no answer")

    async def sleep(self, seconds: float) -> None:
        """In an actor: until the clock is there. TIME_PASSES: a step of its own, which the scheduler may take."""
        if seconds == TIME_PASSES:
            await self.wait(Step("clock"))
            self._world.clock.now += LONG
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleeping[_actor.get()].append((self._world.clock.now + seconds, turn))
        await turn

    async def run(
        self,
        actors: Sequence[Actor],
        choose: Callable[[dict[int, Step]], int | None],
        pick: Callable[[int], int] = lambda count: 0,
    ) -> bool:
        """Run all actors to their ends; False when `choose` gave the schedule up.

        `pick` says which of so many calls of one actor, which it made at once, is the first.
        """
        world = self._world
        world.outcomes = [""] * len(actors)
        world.results = [None] * len(actors)
        self._waiting = [[] for _ in actors]
        self._sleeping = [[] for _ in actors]
        self._counts = [0] * len(actors)
        world.bucket.scheduler = self
        tasks = [asyncio.ensure_future(self._act(number, actor)) for number, actor in enumerate(actors)]
        try:
            for _ in range(_MAX_STEPS):
                await _quiet()
                if all(task.done() for task in tasks):
                    return True
                if self._wake():
                    continue
                enabled = {number: waiting[0][0] for number, waiting in enumerate(self._waiting) if waiting}
                if any(step.call == "delete" for step in enabled.values()):
                    # The assumption about time (registry.gc_register.MARGIN_SECONDS): what was sent lands soon.
                    enabled = {number: step for number, step in enabled.items() if step.call != "clock"}
                if not enabled:
                    self._pass_time()
                    continue
                chosen = choose(enabled)
                if chosen is None:
                    return False
                world.clock.now += _CALL_SECONDS
                self._waiting[chosen].pop(pick(len(self._waiting[chosen])))[1].set_result(None)
            raise Violation("it never ends")
        finally:
            world.bucket.scheduler = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _pass_time(self) -> None:
        deadlines = [deadline for sleeping in self._sleeping for deadline, _ in sleeping]
        assert deadlines, "an actor waits for nothing"
        self._world.clock.now = max(self._world.clock.now, min(deadlines))
        self._wake()

    def _wake(self) -> bool:
        """Whoever slept long enough goes on; whether anybody did."""
        woken = False
        for sleeping in self._sleeping:
            for deadline, turn in [one for one in sleeping if one[0] <= self._world.clock.now]:
                sleeping.remove((deadline, turn))
                woken = True
                if not turn.done():
                    turn.set_result(None)
        return woken

    async def _act(self, number: int, actor: Actor) -> None:
        _actor.set(number)
        world = self._world
        try:
            world.results[number] = await actor(world.platform(self.sleep, seed=number + 1))
            world.outcomes[number] = "done"
        except RegistryError as error:
            world.outcomes[number] = "failed" if error.problem is Problem.UNAVAILABLE else "refused"
            world.results[number] = error
        except StorageError:
            world.outcomes[number] = "failed"
        except Crash:
            world.outcomes[number] = "crashed"


async def _quiet() -> None:
    """Until nothing can run."""
    ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined] # noqa: SLF001
    await asyncio.sleep(0)
    while ready:  # noqa: ASYNC110 - there is no event for "nobody can run"
        await asyncio.sleep(0)


@dataclass(slots=True)
class _Node:
    """A point of a schedule: whose turn it was, who was tried before, and who need not be tried."""

    chosen: int
    enabled: dict[int, Step]
    tried: dict[int, Step]
    asleep: dict[int, Step]


@dataclass(slots=True)
class Scene:
    """A bucket to begin with, actors that meet, and what must hold afterwards."""

    name: str
    begin: Callable[[], World]
    actors: Sequence[Actor]
    check: Callable[[World], Awaitable[None]]
    troubles: Sequence[Trouble] = ()

    async def once(
        self, choose: Callable[[dict[int, Step]], int | None], pick: Callable[[int], int] = lambda count: 0
    ) -> bool:
        """One schedule, and what must hold after it."""
        world = self.begin()
        troubles = self.troubles or [Trouble()] * len(self.actors)
        if not await Scheduler(world, troubles).run(self.actors, choose, pick):
            return False
        await self.check(world)
        return True

    async def every_schedule(self, limit: int = 10**9) -> int:
        """All of them, but for the order of what does not touch; how many. Raises Violation."""
        path: list[_Node] = []
        count = 0
        while count < limit:
            at = 0

            def choose(enabled: dict[int, Step]) -> int | None:
                nonlocal at
                if at == len(path):
                    asleep: dict[int, Step] = {}
                    if path:
                        last = path[-1]
                        step = last.enabled[last.chosen]
                        asleep = {
                            actor: other
                            for actor, other in {**last.asleep, **last.tried}.items()
                            if not other.touches(step)
                        }
                    free = [actor for actor in enabled if actor not in asleep]
                    if not free:
                        return None
                    path.append(_Node(free[0], enabled, {}, asleep))
                node = path[at]
                at += 1
                return node.chosen

            try:
                count += await self.once(choose)
            except AssertionError as error:
                raise Violation(f"{self.name}: {_shown(path)}: {error}") from error
            while path:
                node = path[-1]
                node.tried[node.chosen] = node.enabled[node.chosen]
                free = [one for one in node.enabled if one not in node.tried and one not in node.asleep]
                if free:
                    node.chosen = free[0]
                    break
                path.pop()
            else:
                return count
        return count

    async def random_schedules(self, seeds: Sequence[int]) -> int:
        """One for each seed; how many. Raises Violation."""
        for seed in seeds:
            turns = random.Random(seed)
            taken: list[str] = []

            def choose(enabled: dict[int, Step], turns: random.Random = turns, taken: list[str] = taken) -> int:
                actor = turns.choice(sorted(enabled))
                taken.append(f"{actor}:{enabled[actor].call}")
                return actor

            try:
                await self.once(choose, turns.randrange)
            except AssertionError as error:
                raise Violation(f"{self.name}, seed {seed}: {' '.join(taken)}: {error}") from error
        return len(seeds)


def _shown(path: Sequence[_Node]) -> str:
    steps = ((node.chosen, node.enabled[node.chosen]) for node in path)
    return " ".join(f"{actor}:{step.call}({','.join(key[-24:] for key in step.keys)})" for actor, step in steps)


def new_world(days: float) -> World:
    """An empty bucket in a world that is so old."""
    clock = Clock()
    clock.now = START + days * 86_400
    return World(GatedR2(clock), clock)
