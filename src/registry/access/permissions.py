"""Permissions: which actions are allowed on which repositories. Globs match the names; the most specific glob wins."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import reduce

from registry.spec.endpoints import Access
from registry.spec.errors import RegistryError
from registry.spec.names import parse_name

NOTHING: frozenset[Access] = frozenset()


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern: `*` stands for any characters within a segment, the segment `**` for one or more whole segments.

    `parse_glob` and `parse_repository_glob` make it.
    """

    text: str

    def matches(self, name: str) -> bool:
        """Whether the glob matches `name`."""
        return self.text in {"**", name} or _match(self.text.split("/"), name.split("/"))

    @property
    def specificity(self) -> tuple[int, int]:
        """A larger value is more specific: more literal characters, then fewer stars."""
        stars = self.text.count("*")
        return len(self.text) - stars, -stars

    @property
    def folder(self) -> str:
        """The folder that contains all matching names; "" for the root."""
        literal, star, _ = self.text.partition("*")
        return literal.rpartition("/")[0] if star else literal


def _match(pattern: list[str], segments: list[str]) -> bool:
    if not pattern or not segments:
        return not pattern and not segments
    if pattern[0] == "**":
        return any(_match(pattern[1:], segments[taken:]) for taken in range(1, len(segments) + 1))
    # fnmatch has two more wildcards, which are literal characters here.
    literal = pattern[0].replace("[", "[[]").replace("?", "[?]")
    return fnmatchcase(segments[0], literal) and _match(pattern[1:], segments[1:])


def parse_glob(text: object) -> Glob:
    """Check a glob for any text with "/" as separator. Raises ValueError with a sentence."""
    if not isinstance(text, str) or not text:
        raise ValueError("a glob must be a string that is not empty")
    segments = text.split("/")
    if any("**" in segment and segment != "**" for segment in segments) or segments.count("**") > 2:
        raise ValueError(f"glob {text!r}: ** must be a whole segment and may occur at most twice")
    return Glob(text)


def parse_repository_glob(text: object) -> Glob:
    """Check a glob for repository names. Raises ValueError with a sentence."""
    glob = parse_glob(text)
    try:
        parse_name(glob.text.replace("*", "a"))
    except RegistryError:
        raise ValueError(f"glob {glob.text!r} can match no repository name") from None
    return glob


def parse_access(values: object) -> frozenset[Access]:
    """Check a list of actions. Raises ValueError with a sentence."""
    try:
        if isinstance(values, list):
            return frozenset(Access(value) for value in values)
    except ValueError:
        pass
    known = ", ".join(access.value for access in Access)
    raise ValueError(f"the allowed actions must be a list of some of {known}")


Rule = tuple[Glob, frozenset[Access]]


@dataclass(frozen=True, slots=True)
class Permissions:
    """Tables of rules. In a table only the most specific matching rule counts. Any table may allow an action."""

    tables: tuple[tuple[Rule, ...], ...] = ()

    def __or__(self, other: "Permissions") -> "Permissions":
        """The union of both."""
        return Permissions(self.tables + other.tables)

    def on(self, name: str) -> frozenset[Access]:
        """The actions that are allowed on the repository `name`."""
        return reduce(frozenset.union, (_decide(table, name) for table in self.tables), NOTHING)

    def anywhere(self) -> frozenset[Access]:
        """The actions that are allowed on at least one repository."""
        return reduce(frozenset.union, (access for table in self.tables for _, access in table), NOTHING)

    def everywhere(self) -> frozenset[Access]:
        """The actions that are allowed on every possible repository."""
        general = [table for table in self.tables if any(glob.text == "**" for glob, _ in table)]
        common = (reduce(frozenset.intersection, (access for _, access in table)) for table in general)
        return reduce(frozenset.union, common, NOTHING)

    def may_pull_below(self, folder: str) -> bool:
        """Whether the globs may allow a pull at or below `folder`, which has no "/" at its end."""
        return any(
            Access.PULL in access and (_contains(folder, glob.folder) or _contains(glob.folder, folder))
            for table in self.tables
            for glob, access in table
        )

    def as_json(self) -> list[dict[str, list[str]]]:
        """Encode for a token; `parse_tables` decodes it."""
        return [{glob.text: sorted(one.value for one in access) for glob, access in table} for table in self.tables]


def _decide(table: Iterable[Rule], name: str) -> frozenset[Access]:
    """The actions that the most specific match allows; of several equally specific ones, those that all allow."""
    best: tuple[int, int] | None = None
    allowed = NOTHING
    for glob, access in table:
        if glob.matches(name):
            if best is None or glob.specificity > best:
                best, allowed = glob.specificity, access
            elif glob.specificity == best:
                allowed &= access
    return allowed


def _contains(folder: str, other: str) -> bool:
    return not folder or other == folder or other.startswith(f"{folder}/")


def allow(access: Iterable[Access], *globs: str) -> Permissions:
    """Allow the same actions on all names that one of the globs matches. The globs are not checked."""
    return Permissions((tuple((Glob(glob), frozenset(access)) for glob in globs),) if globs else ())


def parse_permissions(value: object) -> Permissions:
    """Parse a table: `{"team/**": ["pull", "push"], …}`. Raises ValueError with a sentence."""
    if not isinstance(value, Mapping) or not value:
        raise ValueError("permissions must be an object of globs, each with a list of the allowed actions")
    return Permissions((tuple((parse_repository_glob(glob), parse_access(access)) for glob, access in value.items()),))


def parse_tables(tables: Iterable[object]) -> Permissions:
    """Decode what `Permissions.as_json` encoded. Raises ValueError with a sentence."""
    return reduce(Permissions.__or__, (parse_permissions(table) for table in tables), Permissions())
