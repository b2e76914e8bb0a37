"""Runs concurrent requests in every order of their R2 calls, under a scheduler that controls the calls and the clock.

A schedule is a sequence of actors: each entry lets that actor's next call happen. The order of two calls without a
common key has no effect, so only one of both orders is tried (sleep sets: Godefroid, "Partial-Order Methods for the
Verification of Concurrent Systems", 1996). Each schedule runs from the start on a fresh bucket.
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

TIME_PASSES = -1.0  # the argument of `sleep` with which an actor lets LONG seconds pass at any point of a schedule
LONG = 400.0  # seconds: longer than any lease and its margin
SLOW = 95.0  # seconds after which a slow call fails

_actor: ContextVar[int] = ContextVar("actor")
_CALL_SECONDS = 0.001  # duration of an R2 call, so that no two objects have the same upload time
_MAX_STEPS = 2_000  # calls of one schedule; more mean an endless loop


class Violation(AssertionError):
    """An invariant was violated; the message has the schedule."""


@dataclass(frozen=True, slots=True)
class Step:
    """A waiting R2 call, or a step of the clock."""

    call: str
    keys: tuple[str, ...] = ()

    @property
    def writes(self) -> bool:
        """Whether the call changes objects."""
        return self.call not in ("head", "get", "list")

    def touches(self, other: "Step") -> bool:
        """Whether the order of the two steps can have an effect."""
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
    """The isolate of an actor has crashed."""


@dataclass(slots=True)
class Trouble:
    """The fault at an actor's call number `at`.

    "crash": the actor's isolate ends before the call; "lost": the call's reply is lost; "slow": this call and the next
    one fail after SLOW seconds, without effect; "fail": this call and the next two fail, so that retries do not help.
    """

    kind: str = ""
    at: int = -1


class GatedR2(FakeR2):
    """A fake bucket whose calls wait for the scheduler while a schedule runs."""

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
    """A bucket whose replies may get lost."""

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
    """A bucket, its clock, and the outcome of each actor: "done", "refused", "failed" or "crashed"."""

    bucket: GatedR2
    clock: Clock
    outcomes: list[str] = field(default_factory=list)
    results: list[object] = field(default_factory=list)
    acts: list["Actor"] = field(default_factory=list)

    def platform(self, sleep: Callable[[float], Awaitable[None]] | None = None, seed: int = 0) -> Platform:
        """The platform of a further isolate."""
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
    """Runs the actors of one schedule."""

    def __init__(self, world: World, troubles: Sequence[Trouble]) -> None:
        self._world = world
        self._troubles = troubles
        self._waiting: list[list[tuple[Step, asyncio.Future[None]]]] = []
        self._sleeping: list[list[tuple[float, asyncio.Future[None]]]] = []
        self._counts: list[int] = []
        self._lost: set[int] = set()

    async def wait(self, step: Step) -> None:
        """Block an actor until the turn of this call. Raises Crash."""
        actor = _actor.get()
        number, self._counts[actor] = self._counts[actor], self._counts[actor] + 1
        trouble = self._troubles[actor]
        if trouble.kind == "crash" and number >= trouble.at:
            raise Crash
        if trouble.kind == "slow" and 0 <= number - trouble.at < 2:
            await self._turn(Step("clock"))
            self._world.clock.now += SLOW
            raise StorageError("internal error after a timeout")
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
        """Deliver the reply of an actor's call, or raise StorageError if the reply is lost."""
        actor = _actor.get()
        if actor in self._lost:
            self._lost.discard(actor)
            raise StorageError("no answer")

    async def sleep(self, seconds: float) -> None:
        """Block an actor for this time. With TIME_PASSES it waits for a clock step, which the scheduler may choose."""
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
        """Run all actors to their ends; returns False when `choose` returned None to give up the schedule.

        `choose` gets the next step of each actor and returns the actor to run. `pick` gets the number of concurrent
        calls of that actor and returns the index of the one to run.
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
                    # The assumption behind gc_register.MARGIN_SECONDS: a delete that was sent takes effect soon.
                    enabled = {number: step for number, step in enabled.items() if step.call != "clock"}
                if not enabled:
                    self._pass_time()
                    continue
                chosen = choose(enabled)
                if chosen is None:
                    return False
                world.clock.now += _CALL_SECONDS
                self._waiting[chosen].pop(pick(len(self._waiting[chosen])))[1].set_result(None)
            raise Violation("the schedule does not end")
        finally:
            world.bucket.scheduler = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _pass_time(self) -> None:
        deadlines = [deadline for sleeping in self._sleeping for deadline, _ in sleeping]
        assert deadlines, "an actor waits without a call or a sleep"
        self._world.clock.now = max(self._world.clock.now, min(deadlines))
        self._wake()

    def _wake(self) -> bool:
        """Wake the actors whose sleep is over; returns whether there was any."""
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
    """Wait until no task of the loop can run."""
    ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined] # noqa: SLF001
    await asyncio.sleep(0)
    while ready:  # noqa: ASYNC110 - there is no event for "no task can run"
        await asyncio.sleep(0)


@dataclass(slots=True)
class _Node:
    """A point of a schedule: the chosen actor, the actors already tried, and those that need not be tried (asleep)."""

    chosen: int
    enabled: dict[int, Step]
    tried: dict[int, Step]
    asleep: dict[int, Step]


@dataclass(slots=True)
class Scene:
    """An initial bucket, concurrent actors, and a check of the invariants afterwards."""

    name: str
    begin: Callable[[], World]
    actors: Sequence[Actor]
    check: Callable[[World], Awaitable[None]]
    troubles: Sequence[Trouble] = ()

    async def once(
        self, choose: Callable[[dict[int, Step]], int | None], pick: Callable[[int], int] = lambda count: 0
    ) -> bool:
        """Run one schedule and check the invariants; returns False for an abandoned schedule."""
        world = self.begin()
        troubles = self.troubles or [Trouble()] * len(self.actors)
        if not await Scheduler(world, troubles).run(self.actors, choose, pick):
            return False
        await self.check(world)
        return True

    async def every_schedule(self, limit: int = 10**9) -> int:
        """Run all schedules that can differ in effect; returns their number. Raises Violation."""
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
        """Run one random schedule for each seed; returns their number. Raises Violation."""
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
    """An empty bucket, with the clock `days` after START."""
    clock = Clock()
    clock.now = START + days * 86_400
    return World(GatedR2(clock), clock)
