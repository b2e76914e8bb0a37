"""Conditional requests (RFC 9110, section 13): what a client has already need not be sent again."""

import re

_ENTITY_TAG = re.compile(r'(?:W/)?("[^"]*")')


def is_unchanged(if_none_match: str | None, etag: str) -> bool:
    """Whether a client that sends this If-None-Match has what `etag` names: the answer is 304. Weak comparison."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or etag in _ENTITY_TAG.findall(if_none_match)


def may_resume(if_range: str | None, etag: str) -> bool:
    """Whether a Range counts: without If-Range always, else if the client's part is of `etag`. Strong comparison."""
    return if_range is None or if_range.strip() == etag
