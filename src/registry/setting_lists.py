"""Parser for settings whose value is a JSON list of objects with unique names."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from registry.spec.untrusted_json import read_json

_T = TypeVar("_T")

MAX_SETTING = 1024 * 1024  # bytes; Cloudflare allows 5 kB for each


def parse_list(text: str, noun: str, parse: Callable[[object], _T], name: Callable[[_T], str]) -> tuple[_T, ...]:
    """Parse each entry of the list with `parse`. `noun` is the word for an entry in messages; `name` gives its name.

    Raises ValueError with a sentence that says which entry is wrong. One wrong entry makes the whole list invalid.
    """
    try:
        entries = read_json(text, MAX_SETTING)
    except ValueError as error:
        raise ValueError(f"it {error}") from None
    if not isinstance(entries, list):
        raise ValueError(f"must be a list of {noun}s")
    found: dict[str, _T] = {}
    for number, entry in enumerate(entries, 1):
        try:
            value = parse(entry)
        except ValueError as error:
            raise ValueError(f"{noun} {number}: {error}") from None
        if name(value) in found:
            raise ValueError(f"{noun} {number}: {name(value)!r} is there twice")
        found[name(value)] = value
    return tuple(found.values())


def check_members(entry: object, required: str, known: Sequence[str]) -> Mapping[str, object]:
    """Check that an entry is an object with `required` and only `known` members. Raises ValueError with a sentence."""
    if not isinstance(entry, Mapping) or required not in entry:
        raise ValueError(f'must be an object with at least "{required}"')
    unknown = sorted(set(entry) - set(known))
    if unknown:
        raise ValueError(f"there is no {unknown[0]!r}; the members are {', '.join(known)}")
    return entry


def read_number(entry: Mapping[str, object], member: str, largest: int) -> int | None:
    """A whole number from 1 to `largest`; None if the member is missing. Raises ValueError with a sentence."""
    value = entry.get(member)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= largest:
        raise ValueError(f"{member} is a number from 1 to {largest}")
    return value
