"""Conditional requests (RFC 9110, section 13): a client does not download again what it already has."""

import re

_ENTITY_TAG = re.compile(r'(?:W/)?("[^"]*")')


def is_unchanged(if_none_match: str | None, etag: str) -> bool:
    """Whether If-None-Match matches `etag`, so that the answer is 304. Weak comparison."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or etag in _ENTITY_TAG.findall(if_none_match)


def may_resume(if_range: str | None, etag: str) -> bool:
    """Whether Range applies: without If-Range always, otherwise only if it equals `etag`. Strong comparison."""
    return if_range is None or if_range.strip() == etag
