"""The operator's log: one JSON object a line. It never contains a secret, a token or the value of a header."""

import json

from registry.telemetry.request_record import current

_encode = json.JSONEncoder(default=str).encode


def log(event: str, **fields: object) -> None:
    """Write a line; during a request it includes the request's id."""
    record = current.get()
    print(_encode({"event": event, **({} if record is None else {"request": record.id}), **fields}))
