"""The scheduled clean-up. Each run of the cron trigger (a tick) does the next step of a pass.

A pass visits each repository (logs of old upload sessions, retention, garbage), and then the data objects without a
link. A pass begins at least a day after the previous one began. The bucket has the position of the pass, which is
written every now and then, and before each repository after a tick that was interrupted. So the pass advances even when
something keeps ending its ticks: a repository that a tick did not finish gets a tick of its own, and is then skipped
until the next pass.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

from registry.content import gc_register
from registry.ports.platform import Platform
from registry.ports.storage import Attributes, StorageError
from registry.spec.endpoints import Mode
from registry.spec.errors import RegistryError, is_failure
from registry.spec.names import RepositoryName
from registry.storage import bucket_format, keys
from registry.storage.calls import Calls, OutOfCalls
from registry.storage.walk import Repository, Walk
from registry.telemetry.log import log
from registry.upkeep import collection, retention, sweeper
from registry.upkeep.collection import Collector
from registry.upkeep.garbage import BLOBS, MANIFESTS, TAGS, Rules
from registry.upkeep.settings import UpkeepSettings

PASS_SECONDS = 24 * 3600  # from the beginning of one pass to that of the next
TICK_SECONDS = 300  # after which a tick starts no more work: Cloudflare ends it after 900
_REPOSITORIES, _DATA, _DONE = "repositories", "data", "done"
_SAVE_CALLS = 100  # R2 calls after which the position is written again
_SAVE_SECONDS = 1.0  # between two writes of the position: R2 takes one write a second to a key


@dataclass(slots=True)
class Upkeep:
    """The position of the pass. The counts cover this pass."""

    began: float = 0.0  # seconds since the epoch
    stage: str = _DONE
    cursor: str = ""  # the position of the walk over the repositories, or the id of the last data object
    at: str = ""  # a repository that a tick did not finish: the next tick begins with it
    is_alone: bool = False  # a tick began with the repository `at`, and did not finish it
    failed_at: str = ""  # the position at which the last tick failed
    is_running: bool = False  # a tick is running, or was interrupted
    repositories: int = 0
    tags: int = 0
    manifests: int = 0
    blobs: int = 0
    swept: int = 0
    swept_bytes: int = 0


async def tick(platform: Platform, settings: UpkeepSettings, calls: Calls, *, keep_pushed: bool) -> Upkeep:
    """Do the next step of the pass. A storage error is logged and not raised: the next tick tries again.

    With `keep_pushed`, an empty repository's register stays if it records a push: otherwise, an upstream registry would
    answer for the repository.
    """
    upkeep = Upkeep()
    try:
        upkeep = await _read(platform)
        if upkeep.stage == _DONE:
            now = platform.now()
            if now - upkeep.began < PASS_SECONDS or not await bucket_format.is_ours(platform):
                return upkeep
            upkeep = Upkeep(began=now, stage=_REPOSITORIES)
        await _Tick(platform, settings, upkeep, calls, keep_pushed=keep_pushed).run()
    except StorageError as error:
        log("upkeep-failed", stage=upkeep.stage, error=str(error))
    log("upkeep", **asdict(upkeep))
    return upkeep


async def _read(platform: Platform) -> Upkeep:
    stored = await platform.storage.get(keys.CRON)
    if stored is None:
        return Upkeep()
    try:
        value = json.loads(await stored.body.read(stored.object.size))
        return Upkeep(**{one.name: value.get(one.name, one.default) for one in fields(Upkeep)})
    except (ValueError, AttributeError):
        return Upkeep()  # the position is damaged: begin a new pass


class _Tick:
    def __init__(
        self, platform: Platform, settings: UpkeepSettings, upkeep: Upkeep, calls: Calls, *, keep_pushed: bool
    ) -> None:
        self._platform = platform
        self._settings = settings
        self._upkeep = upkeep
        self._calls = calls
        self._keep_pushed = keep_pushed
        self._began = platform.now()
        self._saved_at, self._saved_calls = -_SAVE_SECONDS, 0
        self._is_over = False  # a repository needs its own tick, or a step failed: leave the rest to the next tick
        self._is_careful = upkeep.is_running  # the last tick was interrupted: the next repository may be the reason
        self._swept = sweeper.Swept()

    async def run(self) -> None:
        upkeep = self._upkeep
        upkeep.is_running = True
        await self._save()
        if upkeep.at:
            await self._again()
        if upkeep.stage == _REPOSITORIES:
            await self._walk()
        if upkeep.stage == _DATA:
            await self._sweep_data()
        upkeep.is_running = False
        await self._save()

    @property
    def _may_go_on(self) -> bool:
        """Whether time and half of the R2 calls are left. A repository that needs more gets a tick of its own."""
        return (
            not self._is_over
            and self._calls.left >= self._calls.taken
            and self._platform.now() - self._began < TICK_SECONDS
        )

    async def _save(self) -> None:
        upkeep, platform = self._upkeep, self._platform
        await platform.sleep(max(0.0, self._saved_at + _SAVE_SECONDS - platform.now()))
        upkeep.swept, upkeep.swept_bytes = upkeep.swept + self._swept.objects, upkeep.swept_bytes + self._swept.bytes
        self._swept = sweeper.Swept()
        attributes = Attributes("application/json", {"nonce": platform.random_hex(8)})
        await platform.storage.put(keys.CRON, json.dumps(asdict(upkeep)).encode(), attributes)
        self._saved_at, self._saved_calls = platform.now(), self._calls.taken

    # ------------------------------------------------------------------ repositories
    async def _walk(self) -> None:
        upkeep = self._upkeep
        walk = Walk(self._platform, self._calls, upkeep.cursor, with_metadata=True)
        while self._may_go_on:
            try:
                repository = await walk.next()
            except OutOfCalls:
                return
            except BaseException as error:  # the next tick tries once more, then skips it
                if not is_failure(error):
                    raise
                self._fail(walk.position, error)
                if upkeep.failed_at == walk.position:
                    walk.skip()
                upkeep.failed_at = walk.position
                return
            finally:
                upkeep.cursor = walk.position
            if repository is None:
                upkeep.stage, upkeep.cursor = _DATA, ""
                return
            upkeep.at, upkeep.is_alone = repository.name, False
            upkeep.repositories += 1
            if self._is_careful or self._calls.taken - self._saved_calls >= _SAVE_CALLS:
                await self._save()
            await self._clean(repository)

    async def _again(self) -> None:
        """Begin with the repository that the last tick did not finish; skip it after a second interruption."""
        upkeep = self._upkeep
        if upkeep.is_alone:
            log("upkeep-broke-off", repository=upkeep.at)
            upkeep.at = ""
            return
        upkeep.is_alone = True
        await self._save()
        has = keys.REPOSITORY_FOLDERS | {keys.REGISTER}
        await self._clean(Repository(RepositoryName(upkeep.at), has, None))

    async def _clean(self, repository: Repository) -> None:
        upkeep = self._upkeep
        try:
            if "uploads" in repository.has:
                await sweeper.sweep_uploads(
                    self._platform, self._calls, repository.name, repository.objects, self._swept
                )
            if repository.has == {keys.REGISTER}:
                self._calls.take(4)
                await gc_register.remove(self._platform, repository.name, keep_pushed=self._keep_pushed)
            elif repository.has != {"uploads"}:
                await self._collect(repository)
        except OutOfCalls:
            if not upkeep.is_alone:
                self._is_over = True
                return
            log("does-not-fit", repository=repository.name, help=self._calls.advice)
        except RegistryError as error:
            log("not-collected", repository=repository.name, reason=error.message)
        except BaseException as error:  # a failing repository must not stop the others
            if not is_failure(error):
                raise
            self._fail(repository.name, error)
            if not upkeep.is_alone:
                return
        upkeep.at = ""

    def _fail(self, where: str, error: BaseException) -> None:
        self._is_over = True
        log("upkeep-failed", where=where, error=repr(error))

    async def _collect(self, repository: Repository) -> None:
        settings, upkeep, name = self._settings, self._upkeep, repository.name
        rule = retention.rule_for(settings.retention, name) if settings.retention_applies else None
        rules = rules_for(settings, rule)
        if rule is not None:
            # Tags go in a run of their own, which needs few R2 calls even when the collection needs too many.
            tags = (await self._run(Rules(Mode.DELETED, rules.grace), rule, repository))[TAGS]
            upkeep.tags += tags
            repository = replace(repository, objects=None) if tags else repository
        counts = await self._run(rules, None, repository)
        upkeep.manifests += counts[MANIFESTS]
        upkeep.blobs += counts[BLOBS]

    async def _run(
        self, rules: Rules, rule: retention.RetentionRule | None, repository: Repository
    ) -> Mapping[str, int]:
        run = collection.begin(self._platform, repository.name, rules, retention=rule, found=repository)
        return (await Collector(self._platform, run, self._calls).collect()).counts

    # ------------------------------------------------------------------ data
    async def _sweep_data(self) -> None:
        upkeep = self._upkeep
        while upkeep.stage == _DATA and self._may_go_on:
            try:
                following = await sweeper.sweep_data(self._platform, self._calls, upkeep.cursor, self._swept)
            except OutOfCalls:
                return
            except BaseException as error:  # the next tick tries once more, then skips it
                if not is_failure(error):
                    raise
                self._fail(upkeep.cursor, error)
                if upkeep.failed_at == keys.DATA + upkeep.cursor:
                    upkeep.cursor = chr(ord(upkeep.cursor[:1] or "/") + 1)
                upkeep.failed_at = keys.DATA + upkeep.cursor
                return
            if following is None:
                upkeep.stage = _DONE
            upkeep.cursor = following or ""


def rules_for(settings: UpkeepSettings, rule: retention.RetentionRule | None) -> Rules:
    """Return the collection rules of the scheduled clean-up for a repository with this retention rule, if any."""
    if rule is not None and rule.untagged_age is not None:
        return Rules(Mode.UNTAGGED, settings.gc_grace, rule.untagged_age)
    if settings.gc_mode is not None:
        return Rules(settings.gc_mode, settings.gc_grace)
    return Rules(Mode.DELETED if rule is None else Mode.UNREFERENCED, settings.gc_grace)
