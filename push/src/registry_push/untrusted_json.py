"""JSON that somebody else wrote: registries, token servers, image archives, configuration files, credential helpers.

Its size, its depth and the number of its values are bounded before Python's parser sees it: what is nested deeply ends
the parser, and many small values take much more memory than their text.
"""

import json
import re
from pathlib import Path
from typing import Any

LARGEST_DOCUMENT = 4 * 1024 * 1024  # bytes: larger manifests, registries need not take, and nothing else is larger
DEEPEST = 100  # arrays and objects within each other: a manifest has 5, Python's parser fails at 1,000
MOST_VALUES = 100_000  # about: a manifest of 4 MiB whose descriptors say more than their digest has fewer

# A string (to the end of the text when it has no end), or what separates values.
_PIECES = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)


def read_json(content: bytes) -> Any:
    """The value of a JSON text in UTF-8; raises ValueError with the reason when it is none, or is out of bounds."""
    if len(content) > LARGEST_DOCUMENT:
        raise ValueError(f"it has more than {LARGEST_DOCUMENT} bytes")
    text = content.decode("utf-8-sig")
    depth = values = 0
    for piece in _PIECES.finditer(text):
        match piece[0]:
            case "[" | "{":
                depth += 1
                values += 1
            case "]" | "}":
                depth -= 1
            case ",":
                values += 1
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} deep")
        if values > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES} values")
    return json.loads(text)


def read_json_file(path: Path) -> Any:
    """The value of a JSON file; raises OSError, and ValueError as `read_json`."""
    with path.open("rb") as file:
        return read_json(file.read(LARGEST_DOCUMENT + 1))
