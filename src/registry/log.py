"""What the operator reads: one JSON object a line. Never a secret, a token or a header's value."""

import json


def log(event: str, **fields: object) -> None:
    """Write a line."""
    print(json.dumps({"event": event, **fields}, default=str))
