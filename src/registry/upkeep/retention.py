"""Retention rules: which tags of a repository stay. Manifests that lose their last tag may become garbage."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from registry.access.permissions import Glob, parse_glob, parse_repository_glob
from registry.setting_lists import check_members, parse_list, read_number
from registry.spec.names import RepositoryName
from registry.upkeep.garbage import MIN_UNTAGGED_AGE

_DAY = 24 * 3600  # seconds
_MAX_NUMBER = 100_000
# Tags that belong to an image: referrers lists (spec, "Referrers Tag Schema"), and cosign's signatures, attestations
# and SBOMs.
_ATTACHED = re.compile(r"(sha256-[a-f0-9]{64}|sha512-[a-f0-9]{64,128})(\.[a-z0-9.]+)?", re.ASCII)
_MEMBERS = ("repositories", "keep_newest", "keep_days", "keep_tags", "delete_untagged_after_days")


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """A rule for the tags of some repositories.

    A tag stays when it is among the `keep_newest`, younger than `keep_days`, or matches one of `keep_tags`. Without
    `keep_newest` and `keep_days`, all tags stay.
    """

    repositories: Glob
    keep_newest: int | None
    keep_days: int | None
    keep_tags: tuple[Glob, ...]
    untagged_days: int | None  # None: manifests without a tag stay

    @property
    def untagged_age(self) -> int | None:
        """Seconds after which a manifest without a tag is garbage; None: never."""
        return None if self.untagged_days is None else max(self.untagged_days * _DAY, MIN_UNTAGGED_AGE)

    def kept(self, tags: Sequence[str], put: Sequence[float], counts: Sequence[bool], now: float) -> bytearray:
        """Return 1 for each of a repository's tags that stays, in the order of `tags`.

        `put` has the tags' upload times, and `now` the current time, in seconds since the epoch. Only tags that
        `counts` marks count towards `keep_newest`.
        """
        if self.keep_newest is None and self.keep_days is None:
            return bytearray(b"\1") * len(tags)
        kept = bytearray(len(tags))
        newest_first = sorted((at for at, one in enumerate(counts) if one), key=lambda at: (-put[at], tags[at]))
        for at in newest_first[: self.keep_newest or 0]:
            kept[at] = 1
        for at, tag in enumerate(tags):
            is_young = self.keep_days is not None and now - put[at] < self.keep_days * _DAY
            kept[at] |= is_young or any(glob.matches(tag) for glob in self.keep_tags)
        return kept


def attached_to(tag: str) -> str | None:
    """Return the digest of the image to which a tag belongs (a sha512 may be cut); None when it belongs to none."""
    match = _ATTACHED.fullmatch(tag)
    return None if match is None else match[1].replace("-", ":")


def parse_rules(text: str) -> tuple[RetentionRule, ...]:
    """Parse the setting RETENTION_JSON. Raises ValueError with a message for the operator."""
    return parse_list(text, "rule", _parse, lambda rule: rule.repositories.text)


def _parse(entry: object) -> RetentionRule:
    entry = check_members(entry, "repositories", _MEMBERS)
    if len(entry) == 1:
        raise ValueError("it does not say what is kept or deleted")
    globs = entry.get("keep_tags", [])
    if not isinstance(globs, list):
        raise ValueError("keep_tags must be a list of globs for tags")
    rule = RetentionRule(
        parse_repository_glob(entry["repositories"]),
        read_number(entry, "keep_newest", _MAX_NUMBER),
        read_number(entry, "keep_days", _MAX_NUMBER),
        tuple(parse_glob(glob) for glob in globs),
        read_number(entry, "delete_untagged_after_days", _MAX_NUMBER),
    )
    if rule.keep_tags and rule.keep_newest is None and rule.keep_days is None:
        raise ValueError("keep_tags only exempts tags from deletion by keep_newest or keep_days: add one of them")
    return rule


def rule_for(rules: Sequence[RetentionRule], name: RepositoryName) -> RetentionRule | None:
    """Return the rule with the most specific glob that matches `name`; None when no rule matches."""
    matching = [rule for rule in rules if rule.repositories.matches(name)]
    return max(matching, key=lambda rule: rule.repositories.specificity, default=None)


def as_json(rule: RetentionRule) -> dict[str, object]:
    """Return the rule as the operator wrote it in RETENTION_JSON."""
    value = {
        "repositories": rule.repositories.text,
        "keep_newest": rule.keep_newest,
        "keep_days": rule.keep_days,
        "keep_tags": [glob.text for glob in rule.keep_tags] or None,
        "delete_untagged_after_days": rule.untagged_days,
    }
    return {key: one for key, one in value.items() if one is not None}
