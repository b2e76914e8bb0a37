"""The only reader of JSON that comes from clients, other servers or the operator.

It limits nesting and the number of values before it parses. The parser is recursive, and in Pyodide deep recursion ends
the interpreter for the rest of the isolate's life (docs/adr/0020): there is no exception to catch.
"""

import json
import re
from itertools import accumulate
from typing import Any

MAX_DEPTH = 100  # levels of nested arrays and objects in a manifest; real manifests have five
MAX_TOKEN_DEPTH = 32  # the same in tokens, keys, settings and other servers' answers
# Values of a document, counted as commas and opening brackets. An index of 10,000 descriptors has 70,000.
MAX_VALUES = 100_000

# Bytes of a document with characters beyond U+FFFF: one of them makes Python use four bytes for every character.
_MAX_WIDE = 1024 * 1024
_NARROW = bytes(range(0xF0))  # UTF-8 uses larger bytes only for characters beyond U+FFFF
_WIDE_ESCAPE = re.compile(rb"\\u[dD][89aAbB]")  # the first half of an escaped surrogate pair
# A string; or the rest of the document when the closing quote is missing. Possessive, so that it never backtracks.
_TEXT = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)'
_STRING = re.compile(_TEXT, re.DOTALL)
# A piece of the document with whole strings. Removing the strings of the whole document at once would take 50 bytes of
# memory for each.
_PART = re.compile(rb'(?:[^"]++|' + _TEXT + rb"){1,4096}+", re.DOTALL)
_BRACKETS = b"[]{}"
_NOT_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def read_json(data: str | bytes, size: int, depth: int = MAX_TOKEN_DEPTH) -> Any:
    """Parse a document of at most `size` bytes with at most `depth` levels of nesting.

    Raises ValueError with the reason, which continues the sentence "the document ...": when it is not JSON in UTF-8
    (RFC 8259), is too large, too deep or has too many values, or when an object has a name twice (two readers might use
    different values).
    """
    raw = data.encode(errors="surrogatepass") if isinstance(data, str) else data
    if len(raw) > size:
        raise ValueError(f"has more than {size} bytes")
    if len(raw) > _MAX_WIDE and (raw.translate(None, _NARROW) or _WIDE_ESCAPE.search(raw)):
        raise ValueError(f"has characters beyond U+FFFF and more than {_MAX_WIDE} bytes")
    values, level, deepest = 0, 0, 0
    view = memoryview(raw)
    for part in _PART.finditer(raw):
        structure = _STRING.sub(b"", view[part.start() : part.end()])
        values += sum(map(structure.count, (b"[", b"{", b",")))
        if values > MAX_VALUES:
            raise ValueError(f"has more than {MAX_VALUES} values")
        levels = list(accumulate(map(_STEPS.__getitem__, structure.translate(None, _NOT_BRACKETS)), initial=level))
        level, deepest = levels[-1], max(deepest, *levels)
        if deepest > depth:
            raise ValueError(f"is nested more than {depth} deep")
    try:
        return _DECODER.decode(raw.decode())
    except _TwiceError as error:
        raise ValueError(str(error)) from None
    except ValueError:
        raise ValueError("is not JSON in UTF-8") from None


class _TwiceError(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise _TwiceError(f"has the name {json.dumps(twice[:_SHOWN])} twice in one object")
    return value


_SHOWN = 60  # characters of a name, in a message


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_number)
