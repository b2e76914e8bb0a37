"""What may be done with which repositories: globs over repository names, and the longest match wins."""

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

    Made by `parse_glob` and `parse_repository_glob`.
    """

    text: str

    def matches(self, name: str) -> bool:
        """Whether `name` is meant."""
        return self.text in {"**", name} or _match(self.text.split("/"), name.split("/"))

    @property
    def specificity(self) -> tuple[int, int]:
        """The larger, the more exactly it says what is meant: more literal characters, then fewer stars."""
        stars = self.text.count("*")
        return len(self.text) - stars, -stars

    @property
    def folder(self) -> str:
        """The literal folders that all it matches lie in; "" when that is the root."""
        literal, star, _ = self.text.partition("*")
        return literal.rpartition("/")[0] if star else literal


def _match(pattern: list[str], segments: list[str]) -> bool:
    if not pattern or not segments:
        return not pattern and not segments
    if pattern[0] == "**":
        return any(_match(pattern[1:], segments[taken:]) for taken in range(1, len(segments) + 1))
    # fnmatch knows two more wildcards, which we do not have.
    literal = pattern[0].replace("[", "[[]").replace("?", "[?]")
    return fnmatchcase(segments[0], literal) and _match(pattern[1:], segments[1:])


def parse_glob(text: object) -> Glob:
    """Check a glob over any "/"-separated text. Raises ValueError with a sentence."""
    if not isinstance(text, str) or not text:
        raise ValueError("a glob is a string that is not empty")
    segments = text.split("/")
    if any("**" in segment and segment != "**" for segment in segments) or segments.count("**") > 2:
        raise ValueError(f"glob {text!r}: ** is a segment of its own, at most twice")
    return Glob(text)


def parse_repository_glob(text: object) -> Glob:
    """Check a glob over repository names. Raises ValueError with a sentence."""
    glob = parse_glob(text)
    try:
        parse_name(glob.text.replace("*", "a"))
    except RegistryError:
        raise ValueError(f"glob {glob.text!r} can match no repository name") from None
    return glob


def parse_access(values: object) -> frozenset[Access]:
    """Check a list of accesses. Raises ValueError with a sentence."""
    try:
        if isinstance(values, list):
            return frozenset(Access(value) for value in values)
    except ValueError:
        pass
    known = ", ".join(access.value for access in Access)
    raise ValueError(f"what is allowed is a list of {known}")


Rule = tuple[Glob, frozenset[Access]]


@dataclass(frozen=True, slots=True)
class Permissions:
    """Tables of rules. Within a table the most specific rule that matches counts alone; tables add up."""

    tables: tuple[tuple[Rule, ...], ...] = ()

    def __or__(self, other: "Permissions") -> "Permissions":
        """What either allows."""
        return Permissions(self.tables + other.tables)

    def on(self, name: str) -> frozenset[Access]:
        """What is allowed on the repository `name`."""
        return reduce(frozenset.union, (_decide(table, name) for table in self.tables), NOTHING)

    def anywhere(self) -> frozenset[Access]:
        """What is allowed on some repository."""
        return reduce(frozenset.union, (access for table in self.tables for _, access in table), NOTHING)

    def everywhere(self) -> frozenset[Access]:
        """What is allowed on every repository there may be."""
        general = [table for table in self.tables if any(glob.text == "**" for glob, _ in table)]
        common = (reduce(frozenset.intersection, (access for _, access in table)) for table in general)
        return reduce(frozenset.union, common, NOTHING)

    def may_pull_below(self, folder: str) -> bool:
        """Whether a repository at or below `folder` (without a "/" at its end) may be pulled, going by its name."""
        return any(
            Access.PULL in access and (_contains(folder, glob.folder) or _contains(glob.folder, folder))
            for table in self.tables
            for glob, access in table
        )

    def as_json(self) -> list[dict[str, list[str]]]:
        """For a token; `parse_tables` reads it back."""
        return [{glob.text: sorted(one.value for one in access) for glob, access in table} for table in self.tables]


def _decide(table: Iterable[Rule], name: str) -> frozenset[Access]:
    """What the most specific match allows; of several, what all of them allow."""
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
    """The same access on all that one of the globs matches; they are not checked here."""
    return Permissions((tuple((Glob(glob), frozenset(access)) for glob in globs),) if globs else ())


def parse_permissions(value: object) -> Permissions:
    """A table: `{"team/**": ["pull", "push"], …}`. Raises ValueError with a sentence."""
    if not isinstance(value, Mapping) or not value:
        raise ValueError("permissions are an object of globs, each with a list of what is allowed")
    return Permissions((tuple((parse_repository_glob(glob), parse_access(access)) for glob, access in value.items()),))


def parse_tables(tables: Iterable[object]) -> Permissions:
    """What `Permissions.as_json` made. Raises ValueError with a sentence."""
    return reduce(Permissions.__or__, (parse_permissions(table) for table in tables), Permissions())
