"""Reads an upstream's referrers of a manifest, from its referrers API or from the tag in which clients keep a list.

Spec, "Listing Referrers" and "Referrers Tag Schema". A copy of the answer is stored beside this registry's own entries,
with one line for each referrer: its digest and its descriptor. The upstream's descriptors are trusted like its
manifests. A copied descriptor has only the members that a list of referrers shows.
"""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from urllib.parse import urlsplit

from registry.content.referrers import MAX_ANSWER, describe
from registry.spec.errors import RegistryError
from registry.spec.manifest_format import OCI_INDEX, is_media_type
from registry.spec.names import Digest, RepositoryName, parse_digest
from registry.spec.untrusted_json import MAX_DEPTH, read_json
from registry.telemetry.log import log
from registry.upstream.client import UpstreamClient
from registry.upstream.exchange import Answer, UpstreamError
from registry.upstream.upstreams import Upstream

# Bytes of the descriptors that are kept for one subject: some thousand signatures; as Python objects, a few MiB.
MAX_KEPT = MAX_ANSWER // 4
_MAX_PAGES = 20  # of one list: registries show at least 40 descriptors per page, and a request may fetch 50 times
_MAX_QUERY = 2_048  # bytes of the query of the next page
_ACCEPT = {"Accept": OCI_INDEX}
_NEXT = re.compile(r'<([^<>\s]{1,4096})>\s*;\s*rel="?next"?', re.ASCII | re.IGNORECASE)
_PLAIN = re.compile(r"[\x21-\x7e]+", re.ASCII)
# Statuses besides 404 with which registries answer that do not have a referrers API.
_NO_API = frozenset({400, 405, 406, 410, 415, 501})

TakeRoom = Callable[[int], Awaitable[None]]


async def fetch(
    client: UpstreamClient, upstream: Upstream, there: RepositoryName, subject: Digest, take_room: TakeRoom
) -> Mapping[Digest, str] | None:
    """Return the descriptors of the referrers of `subject`, as JSON; None if the upstream has no list of them.

    If the API's list is empty, the tag is read too: a registry that supports the API only since recently may not list
    the referrers in tags. `take_room` is called before a large answer is read. Raises UpstreamError.
    """
    listed = await _ask_api(client, upstream, there, subject, take_room)
    if listed:
        return listed
    tag = f"{subject.algorithm}-{subject.hex[:64]}"
    answer = await client.ask(upstream, "GET", there, f"manifests/{tag}", _ACCEPT)
    if answer is None:
        return listed
    if not _is_index(answer):
        await answer.body.cancel()
        return listed
    found = listed or {}
    _add(found, upstream, await client.read(upstream, answer, MAX_ANSWER, take_room))
    return found


async def _ask_api(
    client: UpstreamClient, upstream: Upstream, there: RepositoryName, subject: Digest, take_room: TakeRoom
) -> dict[Digest, str] | None:
    """Return the answer of the referrers API; None if the upstream does not have the API."""
    found: dict[Digest, str] = {}
    query = ""
    for page in range(_MAX_PAGES):
        try:
            answer = await client.ask(upstream, "GET", there, f"referrers/{subject}{query}", _ACCEPT)
        except UpstreamError as error:
            if page or not (error.is_denial or error.status in _NO_API):
                raise
            return None
        if answer is None or not _is_index(answer):
            if answer is not None:
                await answer.body.cancel()
            if page:
                raise UpstreamError(upstream, "sent a list of referrers with a missing page")
            return None
        following = _next_query(answer)
        is_full = _add(found, upstream, await client.read(upstream, answer, MAX_ANSWER, take_room))
        if following is None or is_full:
            return found
        query = f"?{following}"
    log("referrers-cut", upstream=upstream.host, repository=there, subject=str(subject), pages=_MAX_PAGES)
    return found


def _is_index(answer: Answer) -> bool:
    return (answer.content_type or "").partition(";")[0].strip().lower() == OCI_INDEX


def _next_query(answer: Answer) -> str | None:
    """Return the query of the next page. The rest of the Link is ignored, so that it cannot name another host."""
    match = _NEXT.search(answer.link or "")
    try:
        query = "" if match is None else urlsplit(match[1]).query
    except ValueError:
        return None
    return query if len(query) <= _MAX_QUERY and _PLAIN.fullmatch(query) else None


def _add(found: dict[Digest, str], upstream: Upstream, data: bytes) -> bool:
    """Add the descriptors of an index to `found`; return True if MAX_KEPT is reached."""
    try:
        document = read_json(data, MAX_ANSWER, MAX_DEPTH)
    except ValueError as error:
        raise UpstreamError(upstream, f"sent an invalid list of referrers: it {error}") from None
    items = document.get("manifests", []) if isinstance(document, dict) else {}
    if items is None:
        items = []  # servers in Go write null for an empty list
    if not isinstance(items, list):
        raise UpstreamError(upstream, "sent an invalid list of referrers: it is not an index")
    size = sum(map(len, found.values()))
    for item in items:
        digest, text = _descriptor(item) or (None, "")
        if digest is None or digest in found:
            continue
        if size + len(text) > MAX_KEPT:
            log("referrers-cut", upstream=upstream.host, size=MAX_KEPT)
            return True
        found[digest] = text
        size += len(text)
    return False


def _descriptor(item: object) -> tuple[Digest, str] | None:
    """Return a descriptor's digest, and the JSON of its shown members; None if the descriptor is invalid."""
    if not isinstance(item, dict):
        return None
    media_type, digest, size = item.get("mediaType"), item.get("digest"), item.get("size")
    artifact_type, annotations = item.get("artifactType"), item.get("annotations")
    if not isinstance(media_type, str) or not is_media_type(media_type):
        return None
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        return None
    try:
        parsed = parse_digest(digest if isinstance(digest, str) else "")
    except RegistryError:
        return None
    texts = annotations.items() if isinstance(annotations, dict) else ()
    return parsed, describe(
        media_type,
        parsed,
        size,
        artifact_type if isinstance(artifact_type, str) and artifact_type else None,
        {name: value for name, value in texts if isinstance(value, str)},
    )


def pack(found: Mapping[Digest, str]) -> bytes:
    """Serialize a list, in the order of the digests. Older versions do not mistake the result for a descriptor."""
    return "\n".join(sorted(f"{digest} {text}" for digest, text in found.items())).encode()


def unpack(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield the digests and descriptors of a serialized list, in order."""
    for line in data.decode(errors="replace").split("\n"):
        digest, space, text = line.partition(" ")
        if space:
            yield digest, text
