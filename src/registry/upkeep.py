"""The clean-up that runs by itself: every tick of the clock a bounded step, over all repositories and then the rest.

A pass is: each repository (retention, garbage, leftovers), data without a link, the root. Where it stands is kept in
the bucket; when one is done the next begins a day after it did.
"""

import json
from dataclasses import asdict, dataclass

from registry import collection, keys, migration, retention, sweeper
from registry.calls import CALLS, Calls, OutOfCalls
from registry.collection import Collector
from registry.discovery import next_repository
from registry.errors import RegistryError, is_cpu_limit
from registry.garbage import Mode, Rules
from registry.log import log
from registry.names import RepositoryName, parse_name
from registry.platform import Platform
from registry.settings import Settings
from registry.storage import Attributes, StorageError

PASS_SECONDS = 24 * 3600  # from the beginning of one pass to that of the next
_REPOSITORIES, _DATA, _ROOT, _DONE = "repositories", "data", "root", "done"
_ALL_CALLS = CALLS - 3  # three are for where the pass stands
_MIN_CALLS = 12  # that a step takes: with less left, the next tick goes on


@dataclass(slots=True)
class Upkeep:
    """Where the pass stands. Counts are of this pass."""

    began: float = 0.0  # seconds since the epoch
    stage: str = _DONE
    cursor: str = ""
    run: str = ""  # of the repository behind `cursor`, when its collection needs another tick
    repositories: int = 0
    tags: int = 0
    manifests: int = 0
    blobs: int = 0
    swept: int = 0
    swept_bytes: int = 0


async def tick(platform: Platform, settings: Settings) -> Upkeep:
    """Do the next step. Never raises what the storage does: the next tick tries again."""
    upkeep = await _read(platform)
    now = platform.now()
    if upkeep.stage == _DONE:
        if now - upkeep.began < PASS_SECONDS or not await migration.is_done(platform):
            return upkeep
        upkeep = Upkeep(began=now, stage=_REPOSITORIES)
    calls = Calls(_ALL_CALLS)
    step = _Step(platform, settings, upkeep, calls)
    try:
        while upkeep.stage != _DONE and calls.left >= _MIN_CALLS:
            await step.run()
    except OutOfCalls:
        pass
    except (StorageError, RegistryError) as error:
        log("upkeep-failed", stage=upkeep.stage, cursor=upkeep.cursor, error=str(error))
    except BaseException as error:
        if not is_cpu_limit(error):
            raise
        log("upkeep-failed", stage=upkeep.stage, cursor=upkeep.cursor, error=str(error))
        if upkeep.run:  # else every tick would meet it again
            await collection.forget(platform, upkeep.run)
            upkeep.run = ""
    attributes = Attributes("application/json", {"nonce": platform.random_hex(8)})
    await platform.storage.put(keys.CRON, json.dumps(asdict(upkeep)).encode(), attributes)
    log("upkeep", **asdict(upkeep))
    return upkeep


async def _read(platform: Platform) -> Upkeep:
    stored = await platform.storage.get(keys.CRON)
    return Upkeep() if stored is None else Upkeep(**json.loads(await stored.body.read(stored.object.size)))


class _Step:
    def __init__(self, platform: Platform, settings: Settings, upkeep: Upkeep, calls: Calls) -> None:
        self._platform = platform
        self._settings = settings
        self._upkeep = upkeep
        self._calls = calls
        self._swept = sweeper.Swept()

    async def run(self) -> None:
        upkeep = self._upkeep
        if upkeep.stage == _REPOSITORIES:
            await self._next_repository()
        elif upkeep.stage == _DATA:
            following = await sweeper.sweep_data(self._platform, self._calls, upkeep.cursor, self._swept)
            self._go_on(following, _ROOT)
        else:
            following = await sweeper.sweep_root(self._platform, self._calls, upkeep.cursor, self._swept)
            self._go_on(following, _DONE)
        upkeep.swept += self._swept.objects
        upkeep.swept_bytes += self._swept.bytes
        self._swept = sweeper.Swept()

    def _go_on(self, cursor: str | None, then: str) -> None:
        if cursor is None:
            self._upkeep.stage = then
        self._upkeep.cursor = cursor or ""

    async def _next_repository(self) -> None:
        upkeep, before, had = self._upkeep, self._upkeep.cursor, self._calls.left
        try:
            await self._at_repository()
        except OutOfCalls:
            if not upkeep.run and had < _ALL_CALLS:
                upkeep.cursor = before  # it gets a tick of its own
            raise

    async def _at_repository(self) -> None:
        upkeep = self._upkeep
        if upkeep.run:
            name: RepositoryName | None = parse_name(upkeep.cursor)
        else:
            name = await next_repository(self._platform, self._calls.take, upkeep.cursor)
        if name is None:
            self._go_on(None, _DATA)
            return
        # First of all: one that fails must not be met again at every tick.
        upkeep.cursor = name
        if not upkeep.run:
            upkeep.repositories += 1
            await sweeper.sweep_repository(self._platform, self._calls, name, self._swept)
        await self._collect(name)

    async def _collect(self, name: RepositoryName) -> None:
        settings, upkeep, platform = self._settings, self._upkeep, self._platform
        rule = retention.rule_for(settings.retention, name) if settings.retention_applies else None
        if rule is not None and not upkeep.run:
            expired = await retention.expired_tags(platform, self._calls, name, rule)
            upkeep.tags += await retention.delete_expired(platform, self._calls, list(expired.values()))
        rules = rules_for(settings, rule)
        if rules is None:
            return
        run = await collection.load(platform, name, upkeep.run) if upkeep.run else None
        run = run or collection.begin(platform, name, rules)
        try:
            garbage = await Collector(platform, run, self._calls).collect()
        except OutOfCalls:
            await collection.save(platform, run)
            upkeep.run = run.id
            raise
        except RegistryError as error:
            log("not-collected", repository=name, reason=error.message)
        else:
            upkeep.manifests += len(garbage.manifests)
            upkeep.blobs += len(garbage.blobs)
        if upkeep.run:
            await collection.forget(platform, upkeep.run)
            upkeep.run = ""


def rules_for(settings: Settings, rule: retention.RetentionRule | None) -> Rules | None:
    """What is collected of a repository by itself; None when nothing is."""
    if rule is not None and rule.untagged_age is not None:
        return Rules(Mode.UNTAGGED, settings.gc_grace, rule.untagged_age)
    if settings.gc_mode is not None:
        return Rules(settings.gc_mode, settings.gc_grace)
    return None if rule is None else Rules(Mode.UNREFERENCED, settings.gc_grace)
