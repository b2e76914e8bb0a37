"""Settings that are a JSON list of objects, each with a name of its own."""

import json
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def parse_list(text: str, noun: str, parse: Callable[[object], _T], name: Callable[[_T], str]) -> tuple[_T, ...]:
    """Read the entries, `noun`s, each with `parse`.

    Raises ValueError with a sentence that says which entry is wrong, as `parse` does; one mistake refuses all of them.
    """
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
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
