"""Upload sessions against a plain model: any sequence of requests, with chunk sizes around every limit."""

import asyncio
import random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from tests.fakes.client import Answer, FakeRegistry, digest_of, with_query
from tests.invariants import PART, check_links, small_parts

NAME = "team/app"
SIZES = st.sampled_from([0, 1, 2, 100, PART - 1, PART, PART + 1, 3 * PART + 7, 4 * PART - 1, 4 * PART, 4 * PART + 1])


class Session:
    """The model of a session: the acknowledged bytes, and all locations that were given out."""

    def __init__(self, location: str) -> None:
        self.locations = [location]
        self.data = b""
        # A chunk at an old location was refused, but may have replaced a part first. R2 then refuses to complete
        # the upload, and the client starts again.
        self.may_be_void = False


class Sessions(RuleBasedStateMachine):
    """Starts, appends to, resumes, closes, cancels and replays sessions in any order."""

    sessions: Bundle[Session] = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self._patches = small_parts()
        self.registry = FakeRegistry()
        self.blobs: set[bytes] = set()
        self.serial = 0

    def teardown(self) -> None:
        self._patches.close()

    def call(self, method: str, url: str, body: Any = b"", **options: Any) -> Answer:
        """Send a request, which must not be answered with a 5xx."""
        answer = asyncio.run(self.registry.call(method, url, body, budget=100, **options))
        assert answer.status < 500, answer
        return answer

    def fresh(self, size: int) -> bytes:
        """Return new bytes each time."""
        self.serial += 1
        return random.Random(self.serial).randbytes(size)

    @initialize()
    def warm(self) -> None:
        """Write to the bucket once."""
        self.call("POST", f"/v2/{NAME}/blobs/uploads/")

    @rule(target=sessions)
    def start(self) -> Session:
        """POST starts a session."""
        return Session(self.call("POST", f"/v2/{NAME}/blobs/uploads/").location)

    @rule(session=sessions, size=SIZES, known=st.booleans(), ranged=st.booleans())
    def append(self, session: Session, size: int, known: bool, ranged: bool) -> None:
        """A chunk at the newest location is accepted."""
        data = self.fresh(size)
        offset = len(session.data)
        headers = {"Content-Range": f"{offset}-{offset + size - 1}"} if ranged and size else {}
        body = data if known else [data[:1000], data[1000:]] if size else []
        answer = self.call("PATCH", session.locations[-1], body, headers=headers)
        assert answer.status == 202, answer
        session.data += data
        assert answer.headers["Range"] == f"0-{max(len(session.data) - 1, 0)}"
        session.locations.append(answer.location)

    @rule(session=sessions, size=SIZES, at=st.integers(0, 5))
    def append_from_an_old_location(self, session: Session, size: int, at: int) -> None:
        """A chunk at an old location is 416 with the real offset, unless the offset is still the same."""
        location = session.locations[min(at, len(session.locations) - 1)]
        moved = location != session.locations[-1]
        data = self.fresh(size)
        answer = self.call("PATCH", location, data)
        if moved and size:
            assert answer.status == 416
            assert answer.headers["Range"] == f"0-{max(len(session.data) - 1, 0)}"
            assert answer.location == session.locations[-1]
            session.may_be_void = True
        else:
            assert answer.status == 202
            if not moved:
                session.data += data
                session.locations.append(answer.location)

    @rule(session=sessions, shift=st.sampled_from([-1, 1, PART]))
    def append_out_of_order(self, session: Session, shift: int) -> None:
        """A wrong Content-Range is 416, and nothing changes."""
        start = len(session.data) + shift
        if start >= 0:
            headers = {"Content-Range": f"{start}-{start + 4}"}
            answer = self.call("PATCH", session.locations[-1], b"12345", headers=headers)
            assert answer.status == 416
            assert answer.location == session.locations[-1]

    @rule(session=sessions)
    def status(self, session: Session) -> None:
        """GET returns the real offset, at any location."""
        answer = self.call("GET", session.locations[0])
        assert answer.headers["Range"] == f"0-{max(len(session.data) - 1, 0)}"
        assert answer.location == session.locations[-1]

    @rule(session=sessions)
    def isolate_restarts(self, session: Session) -> None:
        """A new isolate continues, because no state is kept in memory."""
        self.registry.restart()
        self.status(session)

    @rule(session=consumes(sessions), size=SIZES, known=st.booleans(), algorithm=st.sampled_from(["sha256", "sha512"]))
    def close(self, session: Session, size: int, known: bool, algorithm: str) -> None:
        """PUT with or without last bytes; repeated, it has the same answer."""
        last = self.fresh(size)
        data = session.data + last
        body = last if known else [last] if size else b""
        if len(session.locations) == 1 and algorithm == "sha512" and not session.data:
            body = last
        url = with_query(session.locations[-1], digest=digest_of(data, algorithm))
        answer = self.call("PUT", url, body)
        if session.may_be_void and answer.status == 416:
            assert answer.headers["Range"] == "0-0"
            assert self.call("HEAD", f"/v2/{NAME}/blobs/{digest_of(data, algorithm)}").status == 404
            return
        assert answer.status == 201, answer
        got = self.call("GET", answer.location)
        assert got.body == data
        self.blobs.add(data)
        if not size and session.data:
            assert self.call("PUT", url).status == 201

    @rule(session=consumes(sessions))
    def close_with_a_wrong_digest(self, session: Session) -> None:
        """DIGEST_INVALID, and nothing of the session stays."""
        answer = self.call("PUT", with_query(session.locations[-1], digest=digest_of(self.fresh(9))))
        assert answer.codes == ["DIGEST_INVALID"] or (session.may_be_void and answer.status == 416)
        uuid = session.locations[0].rpartition("/")[2].partition(".")[0]
        assert self.registry.bucket.keys(f"{NAME}/uploads/{uuid}/") == []

    @rule(session=consumes(sessions))
    def cancel(self, session: Session) -> None:
        """DELETE ends a session."""
        assert self.call("DELETE", session.locations[-1]).status == 204

    @invariant()
    def all_is_well(self) -> None:
        """Every acknowledged blob exists, every link has its ref, and every connection is closed."""
        check_links(self.registry)
        keys = self.registry.bucket.objects
        for data in self.blobs:
            assert any(f"{NAME}/blobs/{digest_of(data, algorithm)}" in keys for algorithm in ("sha256", "sha512"))


Sessions.TestCase.settings = settings(max_examples=200, stateful_step_count=30)
TestSessions = Sessions.TestCase
