"""What the operator reads: one JSON object a line. Never a secret, a token or a header's value."""

import json

from registry.telemetry.request_record import current

_encode = json.JSONEncoder(default=str).encode


def log(event: str, **fields: object) -> None:
    """Write a line; while a request is answered it carries that request's id."""
    record = current.get()
    print(_encode({"event": event, **({} if record is None else {"request": record.id}), **fields}))
