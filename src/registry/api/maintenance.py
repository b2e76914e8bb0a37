"""Handlers for the operator: migration, garbage collection, verification, preview of retention."""

from dataclasses import asdict

from registry.api.http import Request, Response, json_response
from registry.registry import Registry
from registry.spec.endpoints import CollectGarbage, Migrate, PreviewRetention, VerifyRepository
from registry.spec.errors import Problem, RegistryError
from registry.spec.paths import build
from registry.storage import bucket_format
from registry.storage.calls import Calls, OutOfCalls
from registry.storage.walk import Repository, Walk
from registry.upkeep import collection, migration, retention
from registry.upkeep.collection import Collector
from registry.upkeep.cron import rules_for
from registry.upkeep.garbage import BLOBS, MANIFESTS, TAGS, Rules
from registry.upkeep.verification import verify


async def migrate(registry: Registry, endpoint: Migrate, request: Request) -> Response:
    """Do the next step of the migration from serverless-registry. The operator repeats the request until `done`."""
    return json_response(200, asdict(await migration.step(registry.platform, registry.settings.r2_calls)))


async def collect_garbage(registry: Registry, endpoint: CollectGarbage, request: Request) -> Response:
    """Collect garbage, or show what a collection would delete (dry run)."""
    platform, name = registry.platform, endpoint.name
    await registry.before_first_write()  # this marks an empty bucket as one that needs no migration
    if not await bucket_format.is_ours(platform):
        raise RegistryError(Problem.NOT_MIGRATED)
    grace = registry.settings.upkeep.gc_grace if endpoint.grace is None else endpoint.grace
    calls = Calls(registry.settings.r2_calls)
    collector = Collector(platform, collection.begin(platform, name, Rules(endpoint.mode, grace)), calls)
    try:
        garbage = await (collector.find() if endpoint.dry_run else collector.collect())
    except OutOfCalls:
        raise RegistryError(Problem.NEEDS_MORE_CALLS, calls.advice) from None
    answer: dict[str, object] = {
        "success": True,
        "dry_run": endpoint.dry_run,
        "mode": endpoint.mode.value,
        "manifests_seen": collector.manifests_seen,
        **garbage.counts,
        "bytes": garbage.bytes,
    }
    if endpoint.dry_run:
        answer["garbage"] = {kind: garbage.shown[kind] for kind in (MANIFESTS, BLOBS)}
    return json_response(200, answer)


async def verify_repository(registry: Registry, endpoint: VerifyRepository, request: Request) -> Response:
    """Verify a repository and answer its problems."""
    calls = Calls(registry.settings.r2_calls)
    try:
        return json_response(200, asdict(await verify(registry.platform, endpoint.name, calls)))
    except OutOfCalls:
        raise RegistryError(Problem.NEEDS_MORE_CALLS, calls.advice) from None


async def preview_retention(registry: Registry, endpoint: PreviewRetention, request: Request) -> Response:
    """Answer what the retention rules would delete now, even if they are not applied, in repositories after `last`.

    When the R2 calls run out, the answer says so and has the address of the rest.
    """
    rules, calls, last = registry.settings.upkeep.retention, Calls(registry.settings.r2_calls), endpoint.last or ""
    walk = Walk(registry.platform, calls, last, with_metadata=True)
    shown: list[dict[str, object]] = []
    looked_at, is_complete = 0, False
    try:
        while (found := await walk.next()) is not None:
            rule = retention.rule_for(rules, found.name)
            if rule is not None:
                shown += await _preview(registry, found, rule, calls, is_first=not looked_at)
                looked_at += 1
            last = walk.position
        is_complete = True
    except OutOfCalls:
        last = last if looked_at else walk.position
    answer: dict[str, object] = {"rules": [retention.as_json(rule) for rule in rules], "is_complete": is_complete}
    if not is_complete:
        following = build(PreviewRetention(last))
        answer |= {"last": last, "help": f"these are not all repositories: GET {following} shows more"}
    return json_response(200, {**answer, "looked_at": looked_at, "repositories": shown})


async def _preview(
    registry: Registry, found: Repository, rule: retention.RetentionRule, calls: Calls, *, is_first: bool
) -> list[dict[str, object]]:
    """Return the preview of one repository; an empty list when nothing would be deleted."""
    shown: dict[str, object] = {"name": found.name, "rule": rule.repositories.text}
    run = collection.begin(
        registry.platform, found.name, rules_for(registry.settings.upkeep, rule), retention=rule, found=found
    )
    try:
        garbage = await Collector(registry.platform, run, calls).find()
    except OutOfCalls:
        if not is_first:
            raise
        return [{**shown, "problem": calls.advice}]
    except RegistryError as error:
        return [{**shown, "problem": error.message}]
    if not any(garbage.counts.values()):
        return []
    names = {kind: garbage.shown[kind] for kind in (TAGS, MANIFESTS)}
    return [{**shown, "counts": garbage.counts, "bytes": garbage.bytes, **names}]
