"""JSON that an operator or a stranger wrote."""

import json
from typing import Any


def read_json(text: str | bytes) -> Any:
    """Its value. Raises ValueError with the reason for what is none, or is nested deeper than Python reads."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
