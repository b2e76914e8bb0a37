"""Settings that are a JSON list of objects, each with a name of its own."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from registry.spec.untrusted_json import read_json

_T = TypeVar("_T")

MAX_SETTING = 1024 * 1024  # bytes; Cloudflare takes 5 KB of one


def parse_list(text: str, noun: str, parse: Callable[[object], _T], name: Callable[[_T], str]) -> tuple[_T, ...]:
    """Read the entries, `noun`s, each with `parse`.

    Raises ValueError with a sentence that says which entry is wrong, as `parse` does; one mistake refuses all of them.
    """
    try:
        entries = read_json(text, MAX_SETTING)
    except ValueError as error:
        raise ValueError(f"it {error}") from None
    if not isinstance(entries, list):
        raise ValueError(f"it is a list of {noun}s")
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
    """An entry that is an object with `required` and nothing that is not `known`. Raises ValueError with a sentence."""
    if not isinstance(entry, Mapping) or required not in entry:
        raise ValueError(f'it is an object with at least "{required}"')
    unknown = sorted(set(entry) - set(known))
    if unknown:
        raise ValueError(f"there is no {unknown[0]!r}; what there is: {', '.join(known)}")
    return entry


def read_number(entry: Mapping[str, object], member: str, largest: int) -> int | None:
    """A whole number from 1 on; None when the member is not there. Raises ValueError with a sentence."""
    value = entry.get(member)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= largest:
        raise ValueError(f"{member} is a number from 1 to {largest}")
    return value
