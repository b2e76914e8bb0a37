"""Parser for the WWW-Authenticate headers of other registries (RFC 9110, section 11.6.1), malformed ones included."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

# A parameter, whose value is quoted or, from some registries, not; or a scheme, which no "=" follows.
_PART = re.compile(
    r'\s*(?:(?P<name>[A-Za-z][\w-]*)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s,"]+))'
    r"|(?P<scheme>[A-Za-z][\w-]*)(?![\w-]|\s*=))\s*,?",
    re.ASCII,
)
_MAX_HEADER = 16 * 1024  # characters
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of a header: the scheme in lower case, and its parameters."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(header: str) -> list[Challenge]:
    """Return all challenges of a header. Parsing stops at malformed text and after _MAX_HEADER characters."""
    header = header[:_MAX_HEADER]
    found: list[tuple[str, dict[str, str]]] = []
    at = 0
    while at < len(header) and (part := _PART.match(header, at)):
        at = part.end()
        if part["scheme"]:
            found.append((part["scheme"].lower(), {}))
        elif found:
            value = part["bare"] if part["quoted"] is None else _ESCAPED.sub(r"\1", part["quoted"])
            found[-1][1].setdefault(part["name"].lower(), value)
    return [Challenge(scheme, parameters) for scheme, parameters in found]
