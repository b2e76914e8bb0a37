"""Retention: which tags are kept, by rules per repository; what no tag reaches any more is then garbage."""

from collections.abc import Sequence
from dataclasses import dataclass

from registry.calls import Calls
from registry.discovery import tag_pages
from registry.garbage import MIN_UNTAGGED_AGE
from registry.manifest_deletion import retire_tag
from registry.names import RepositoryName
from registry.permissions import Glob, parse_glob, parse_repository_glob
from registry.platform import Platform
from registry.setting_lists import check_members, parse_list, read_number
from registry.storage import StoredObject

_DAY = 24 * 3600  # seconds
_MAX_NUMBER = 100_000
_MEMBERS = ("repositories", "keep_newest", "keep_days", "keep_tags", "delete_untagged_after_days")


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """A tag stays when it is among the newest, young enough, or named in `keep_tags`; without the first two all do."""

    repositories: Glob
    keep_newest: int | None
    keep_days: int | None
    keep_tags: tuple[Glob, ...]
    untagged_days: int | None  # None: manifests without a tag stay

    @property
    def untagged_age(self) -> int | None:
        """Seconds after which a manifest without a tag is garbage."""
        return None if self.untagged_days is None else max(self.untagged_days * _DAY, MIN_UNTAGGED_AGE)

    def expired(self, tags: Sequence[StoredObject], names: Sequence[str], now: float) -> list[StoredObject]:
        """Those of all `tags` of a repository that go; `names` are theirs."""
        if self.keep_newest is None and self.keep_days is None:
            return []
        newest_first = sorted(range(len(tags)), key=lambda at: (-tags[at].uploaded, names[at]))
        expired = []
        for rank, at in enumerate(newest_first):
            is_new = self.keep_newest is not None and rank < self.keep_newest
            is_young = self.keep_days is not None and now - tags[at].uploaded < self.keep_days * _DAY
            if not (is_new or is_young or any(glob.matches(names[at]) for glob in self.keep_tags)):
                expired.append(tags[at])
        return expired


def parse_rules(text: str) -> tuple[RetentionRule, ...]:
    """The value of RETENTION_JSON. Raises ValueError with a sentence."""
    return parse_list(text, "rule", _parse, lambda rule: rule.repositories.text)


def _parse(entry: object) -> RetentionRule:
    entry = check_members(entry, "repositories", _MEMBERS)
    if len(entry) == 1:
        raise ValueError("it does not say what is kept or deleted")
    globs = entry.get("keep_tags", [])
    if not isinstance(globs, list):
        raise ValueError("keep_tags is a list of globs of tags")
    rule = RetentionRule(
        parse_repository_glob(entry["repositories"]),
        read_number(entry, "keep_newest", _MAX_NUMBER),
        read_number(entry, "keep_days", _MAX_NUMBER),
        tuple(parse_glob(glob) for glob in globs),
        read_number(entry, "delete_untagged_after_days", _MAX_NUMBER),
    )
    if rule.keep_tags and rule.keep_newest is None and rule.keep_days is None:
        raise ValueError(
            "keep_tags only says what stays of what keep_newest or keep_days would delete: give one of them"
        )
    return rule


def rule_for(rules: Sequence[RetentionRule], name: RepositoryName) -> RetentionRule | None:
    """The rule whose glob says most exactly that `name` is meant."""
    matching = [rule for rule in rules if rule.repositories.matches(name)]
    return max(matching, key=lambda rule: rule.repositories.specificity, default=None)


async def expired_tags(
    platform: Platform, calls: Calls, name: RepositoryName, rule: RetentionRule
) -> dict[str, StoredObject]:
    """The tags that the rule deletes now. Raises OutOfCalls when there are too many to list in one request."""
    tags: list[StoredObject] = []
    calls.take()
    async for page in tag_pages(platform, name, None):
        calls.take()
        tags += [tag for tag in page.tags if tag.size > 0]
    prefix = f"{name}/manifests/"
    names = [tag.key.removeprefix(prefix) for tag in tags]
    by_key = dict(zip((tag.key for tag in tags), names, strict=True))
    return {by_key[tag.key]: tag for tag in rule.expired(tags, names, platform.now())}


async def delete_expired(platform: Platform, calls: Calls, tags: Sequence[StoredObject]) -> int:
    """Delete tags, unless they were pushed since they were listed; as many as the calls allow. Returns how many."""
    deleted = 0
    for tag in tags:
        if calls.left < 1:
            break
        calls.take()
        deleted += await retire_tag(platform, tag)
    return deleted


def as_json(rule: RetentionRule) -> dict[str, object]:
    """For the operator, as it was given."""
    value = {
        "repositories": rule.repositories.text,
        "keep_newest": rule.keep_newest,
        "keep_days": rule.keep_days,
        "keep_tags": [glob.text for glob in rule.keep_tags] or None,
        "delete_untagged_after_days": rule.untagged_days,
    }
    return {key: one for key, one in value.items() if one is not None}
