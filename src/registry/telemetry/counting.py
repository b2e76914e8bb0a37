"""Counts the R2 calls of a request by price class, in the request's record."""

from registry.telemetry.request_record import current

# Methods of `Storage` by price class: A changes or lists, B reads (https://developers.cloudflare.com/r2/pricing/).
_CLASS_A = frozenset({"put", "list", "create_upload", "upload_part", "complete_upload"})
_CLASS_B = frozenset({"head", "get"})


def count(call: str) -> None:
    """Count a call in the current request's record, before the call is sent."""
    record = current.get()
    if record is None:
        return
    if call in _CLASS_A:
        record.class_a += 1
    elif call in _CLASS_B:
        record.class_b += 1
    else:
        record.free += 1
