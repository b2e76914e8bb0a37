"""Parses untrusted JSON: of registries, token servers, image archives, configuration files and credential helpers.

Size, depth and number of values are checked before Python's parser runs: deep nesting makes the parser fail, and many
small values take much more memory than their text.
"""

import json
import re
from pathlib import Path
from typing import Any

LARGEST_DOCUMENT = 4 * 1024 * 1024  # bytes: registries need not accept larger manifests; other documents are smaller
DEEPEST = 100  # nested arrays and objects: a manifest has 5, Python's parser fails at 1,000
MOST_VALUES = 100_000  # about; a manifest of 4 MiB with ordinary descriptors has fewer

# A string (an unterminated one extends to the end of the text), a bracket or a comma.
_PIECES = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)


def read_json(content: bytes) -> Any:
    """Parse a JSON text in UTF-8; raises ValueError with the reason when it is malformed or exceeds a limit."""
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
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
        if values > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES} values")
    return json.loads(text)


def read_json_file(path: Path) -> Any:
    """Parse a JSON file; raises OSError, and ValueError as `read_json`."""
    with path.open("rb") as file:
        return read_json(file.read(LARGEST_DOCUMENT + 1))
