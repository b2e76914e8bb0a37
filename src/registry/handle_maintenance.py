"""Answers to what an operator asks: migration, garbage collection, verification, what retention would delete."""

from dataclasses import asdict

from registry import collection, migration, retention
from registry.calls import Calls, OutOfCalls
from registry.collection import Collector, Run
from registry.discovery import next_repository
from registry.endpoints import CollectGarbage, Migrate, PreviewRetention, VerifyRepository
from registry.errors import Problem, RegistryError
from registry.garbage import Garbage, Rules
from registry.http import Request, Response, json_response
from registry.names import RepositoryName
from registry.registry import Registry
from registry.upkeep import rules_for
from registry.verification import verify


async def migrate(registry: Registry, endpoint: Migrate, request: Request) -> Response:
    """The next step of the migration from SR: ask again until `done`."""
    return json_response(200, asdict(await migration.step(registry.platform)))


async def collect_garbage(registry: Registry, endpoint: CollectGarbage, request: Request) -> Response:
    """Collect, or show what would be; ask again with the answer's `cursor` until `success`."""
    platform, name = registry.platform, endpoint.name
    await registry.before_first_write()  # an empty bucket needs no migration
    if not await migration.is_done(platform):
        raise RegistryError(Problem.NOT_MIGRATED)
    grace = registry.settings.gc_grace if endpoint.grace is None else endpoint.grace
    if endpoint.cursor is None:
        run = collection.begin(platform, name, Rules(endpoint.mode, grace), is_dry=endpoint.dry_run)
    else:
        kept = await collection.load(platform, name, endpoint.cursor)
        if kept is None:
            raise RegistryError(Problem.BAD_REQUEST, "there is no collection of this cursor: begin without it")
        if kept.is_dry != endpoint.dry_run:
            # Who forgets to say so again shall not delete what was only to be shown.
            raise RegistryError(Problem.BAD_REQUEST, "dry_run is not what it was when this cursor was given")
        run = kept
    collector = Collector(platform, run, Calls())
    try:
        garbage = await (collector.find() if endpoint.dry_run else collector.collect())
    except OutOfCalls:
        await collection.save(platform, run)
        return json_response(200, {"success": False, "cursor": run.id, **_seen(run)})
    if endpoint.cursor is not None:
        await collection.forget(platform, run.id)
    if not garbage.is_all and not endpoint.dry_run:
        following = collection.begin(platform, name, run.rules)
        await collection.save(platform, following)
        return json_response(200, {"success": False, "cursor": following.id, **_seen(run), **_counts(garbage)})
    answer: dict[str, object] = {"success": True, "dry_run": endpoint.dry_run, **_seen(run), **_counts(garbage)}
    if endpoint.dry_run:
        answer["garbage"] = _listed(garbage)
    return json_response(200, answer)


def _seen(run: Run) -> dict[str, object]:
    return {"mode": run.rules.mode.value, "manifests_seen": len(run.contents.manifests)}


def _counts(garbage: Garbage) -> dict[str, object]:
    return {
        "manifests": len(garbage.manifests),
        "tombstones": len(garbage.tombstones),
        "referrers": len(garbage.referrers),
        "blobs": len(garbage.blobs),
        "bytes": sum(blob.size for blob in garbage.blobs),
    }


def _listed(garbage: Garbage) -> dict[str, object]:
    return {
        "manifests": [one.reference for one in garbage.manifests],
        "blobs": [{"digest": one.digest, "size": one.size} for one in garbage.blobs],
    }


async def verify_repository(registry: Registry, endpoint: VerifyRepository, request: Request) -> Response:
    """What is wrong with a repository; ask again with the answer's `cursor` while there is one."""
    found = await verify(registry.platform, endpoint.name, endpoint.cursor, Calls())
    answer: dict[str, object] = {"manifests": found.manifests, "blobs": found.blobs, "problems": found.problems}
    if found.last is not None:
        answer["cursor"] = str(found.last)
    return json_response(200, answer)


async def preview_retention(registry: Registry, endpoint: PreviewRetention, request: Request) -> Response:
    """What the rules would delete now, whether they are switched on or not; go on with `last` while there is one."""
    rules, calls, last = registry.settings.retention, Calls(), endpoint.last or ""
    shown: list[dict[str, object]] = []
    answer: dict[str, object] = {"rules": [retention.as_json(rule) for rule in rules], "repositories": shown}
    try:
        while (name := await next_repository(registry.platform, calls.take, last)) is not None:
            rule = retention.rule_for(rules, name)
            if rule is not None:
                shown.append(await _preview(registry, name, rule, calls))
            last = name
    except OutOfCalls:
        if last == (endpoint.last or "") and name is not None:
            shown.append({"name": name, "problem": "it is too large to be shown by one request"})
            last = name
        answer["last"] = last
    return json_response(200, answer)


async def _preview(
    registry: Registry, name: RepositoryName, rule: retention.RetentionRule, calls: Calls
) -> dict[str, object]:
    platform, settings = registry.platform, registry.settings
    tags = await retention.expired_tags(platform, calls, name, rule)
    shown: dict[str, object] = {"name": name, "rule": rule.repositories.text, "tags": sorted(tags)}
    rules = rules_for(settings, rule)
    if rules is not None:
        without = Rules(rules.mode, rules.grace, rules.untagged_age, frozenset(tags))
        garbage = await Collector(platform, collection.begin(platform, name, without), calls).find()
        shown |= {**_counts(garbage), "manifests": [one.reference for one in garbage.manifests]}
    return shown
