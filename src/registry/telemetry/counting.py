"""What a request costs, noted in its record: R2's calls by price class."""

from registry.telemetry.request_record import current

# https://developers.cloudflare.com/r2/pricing/: Class A changes or lists, Class B reads; the methods of `Storage`.
_CLASS_A = frozenset({"put", "list", "create_upload", "upload_part", "complete_upload"})
_CLASS_B = frozenset({"head", "get"})


def count(call: str) -> None:
    """Note a call, before it is sent."""
    record = current.get()
    if record is None:
        return
    if call in _CLASS_A:
        record.class_a += 1
    elif call in _CLASS_B:
        record.class_b += 1
    else:
        record.free += 1
