"""Concurrent requests: one wins, the others get an answer of the spec, and nothing acknowledged changes.

A seed decides how many turns of the event loop each R2 call takes, so that the requests interleave everywhere.
"""

from collections.abc import Awaitable, Callable

import pytest

from tests.fakes.client import Answer, FakeRegistry, digest_of, with_query
from tests.invariants import PART, check_blob, check_links
from tests.unit.uploads.test_uploads import bytes_of

pytestmark = pytest.mark.usefixtures("small_parts")
NAME = "team/app"
SEEDS = 150

# 202, 201, 204: won; 416 and 404: the session has another offset, or is gone; 400: a wrong digest, if one was sent.
_SPEC = {201, 202, 204, 400, 404, 416}


async def start(registry: FakeRegistry) -> str:
    """Start a session."""
    return (await registry.call("POST", f"/v2/{NAME}/blobs/uploads/")).location


async def chunk(registry: FakeRegistry, location: str, data: bytes) -> str:
    """Send a chunk of known length; return where to continue."""
    answer = await registry.call("PATCH", location, [data])
    assert answer.status == 202
    return answer.location


def patch(registry: FakeRegistry, location: str, data: bytes) -> Awaitable[Answer]:
    """Send a chunk of unknown length."""
    return registry.call("PATCH", location, [data[at : at + 1000] for at in range(0, len(data), 1000)])


def put(registry: FakeRegistry, location: str, data: bytes, body: bytes = b"") -> Awaitable[Answer]:
    """Send the closing PUT."""
    return registry.call("PUT", with_query(location, digest=digest_of(data)), body)


async def race(registry: FakeRegistry, seed: int, *requests: Awaitable[Answer]) -> list[Answer]:
    """Run requests concurrently, in an order decided by a seed."""
    answers = await registry.at_once(seed, *requests)
    assert all(answer.status in _SPEC for answer in answers), (seed, answers)
    check_links(registry)
    return answers


A, B = bytes_of(2 * PART + 100, 1), bytes_of(2 * PART + 100, 2)
FIRST = bytes_of(PART + 50, 3)


async def two_chunks(registry: FakeRegistry, seed: int) -> None:
    """Two PATCHes at one offset, after a stored part: an acknowledged one can be closed, or neither is."""
    location = await chunk(registry, await start(registry), FIRST)
    answers = await race(registry, seed, patch(registry, location, A), patch(registry, location, B))
    assert sorted(answer.status for answer in answers) == [202, 416]
    winner = A if answers[0].status == 202 else B
    data = FIRST + winner
    closed = await put(registry, answers[0].location, data)
    assert answers[0].location == answers[1].location
    # 416: the loser's late part replaced one of the winner's. R2 refuses to complete them, so the client starts again.
    assert closed.status in (201, 416)
    await check_blob(registry, NAME, data, acknowledged=closed.status == 201)
    loser = FIRST + (B if winner is A else A)
    assert (await registry.call("HEAD", f"/v2/{NAME}/blobs/{digest_of(loser)}")).status == 404


async def two_first_chunks(registry: FakeRegistry, seed: int) -> None:
    """Two PATCHes at offset 0, where no part is shared: the winner can always be closed."""
    location = await start(registry)
    answers = await race(registry, seed, patch(registry, location, A), patch(registry, location, B))
    assert sorted(answer.status for answer in answers) == [202, 416]
    winner = A if answers[0].status == 202 else B
    assert (await put(registry, answers[0].location, winner)).status == 201
    await check_blob(registry, NAME, winner, acknowledged=True)
    assert registry.bucket.uploads == {}


async def chunk_and_close(registry: FakeRegistry, seed: int) -> None:
    """A PATCH beside a PUT that closes the session as it was before."""
    location = await chunk(registry, await start(registry), FIRST)
    _, closed = await race(registry, seed, patch(registry, location, A), put(registry, location, FIRST))
    await check_blob(registry, NAME, FIRST, acknowledged=closed.status == 201)


async def close_twice(registry: FakeRegistry, seed: int) -> None:
    """Two equal PUTs: at least one is acknowledged."""
    location = await chunk(registry, await chunk(registry, await start(registry), FIRST), A)
    answers = await race(registry, seed, put(registry, location, FIRST + A), put(registry, location, FIRST + A))
    assert 201 in [answer.status for answer in answers]
    await check_blob(registry, NAME, FIRST + A, acknowledged=True)
    assert len(registry.bucket.keys("_data/")) == 1


async def close_right_and_wrong(registry: FakeRegistry, seed: int) -> None:
    """PUTs with a right and a wrong digest, where the object has to be read: no acknowledged byte is lost."""
    location = await chunk(registry, await chunk(registry, await start(registry), FIRST), A)
    wrong = registry.call("PUT", with_query(location, digest=digest_of(b"wrong")))
    right, refused = await race(registry, seed, put(registry, location, FIRST + A), wrong)
    assert refused.status != 201
    await check_blob(registry, NAME, FIRST + A, acknowledged=right.status == 201)


async def cancel_and_close(registry: FakeRegistry, seed: int) -> None:
    """A DELETE beside a closing PUT."""
    location = await chunk(registry, await start(registry), A)
    closed, _ = await race(registry, seed, put(registry, location, A), registry.call("DELETE", location))
    await check_blob(registry, NAME, A, acknowledged=closed.status == 201)


async def cancel_and_chunk(registry: FakeRegistry, seed: int) -> None:
    """A DELETE beside a PATCH: what follows is refused, or correct."""
    location = await chunk(registry, await start(registry), FIRST)
    appended, _ = await race(registry, seed, patch(registry, location, A), registry.call("DELETE", location))
    closed = await put(registry, appended.location if appended.status == 202 else location, FIRST + A)
    assert closed.status in _SPEC
    await check_blob(registry, NAME, FIRST + A, acknowledged=closed.status == 201)


async def the_same_blob_twice(registry: FakeRegistry, seed: int) -> None:
    """Two clients push one blob: both are acknowledged, and its bytes are stored once."""
    locations = [await chunk(registry, await start(registry), A) for _ in range(2)]
    whole = await start(registry)
    puts = [put(registry, location, A) for location in locations]
    answers = await race(registry, seed, *puts, put(registry, whole, A, A))
    assert [answer.status for answer in answers] == [201] * 3
    await check_blob(registry, NAME, A, acknowledged=True)
    assert len(registry.bucket.keys("_data/")) == 1
    assert len(registry.bucket.keys("_refs/")) == 1


async def an_old_session_replayed(registry: FakeRegistry, seed: int) -> None:
    """After the close, chunks, a close and a DELETE to old locations, concurrently: the blob stays."""
    first = await start(registry)
    last = await chunk(registry, first, A)
    assert (await put(registry, last, A)).status == 201
    requests = (
        patch(registry, first, B),
        patch(registry, last, B),
        put(registry, last, A),
        registry.call("DELETE", last),
    )
    await race(registry, seed, *requests)
    await check_blob(registry, NAME, A, acknowledged=True)


async def mount_while_closing(registry: FakeRegistry, seed: int) -> None:
    """A mount of a blob that is being closed: it succeeds, or the client is told to upload."""
    location = await chunk(registry, await start(registry), A)
    query = f"?mount={digest_of(A)}&from={NAME}"
    closed, mounted = await race(
        registry, seed, put(registry, location, A), registry.call("POST", f"/v2/other/blobs/uploads/{query}")
    )
    assert closed.status == 201
    await check_blob(registry, "other", A, acknowledged=mounted.status == 201)


SCENES: list[Callable[[FakeRegistry, int], Awaitable[None]]] = [
    two_chunks,
    two_first_chunks,
    chunk_and_close,
    close_twice,
    close_right_and_wrong,
    cancel_and_close,
    cancel_and_chunk,
    the_same_blob_twice,
    an_old_session_replayed,
    mount_while_closing,
]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
async def test_requests_that_meet(scene: Callable[[FakeRegistry, int], Awaitable[None]]) -> None:
    """Every scene in many orders; a failure names its seed."""
    for seed in range(SEEDS):
        registry = FakeRegistry()
        try:
            await scene(registry, seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error
