"""Upload sessions against a plain model: any sequence of requests, chunk sizes around every boundary."""

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
    """What the model knows of a session: the bytes that were acknowledged, and every location that was given out."""

    def __init__(self, location: str) -> None:
        self.locations = [location]
        self.data = b""
        # A chunk from an old location was refused, but may have replaced a part before: R2 will not join the parts
        # any more, and the client starts again.
        self.may_be_void = False


class Sessions(RuleBasedStateMachine):
    """Sessions are started, appended to, resumed, closed, cancelled and replayed in any order."""

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
        """A request, which never makes a 5xx."""
        answer = asyncio.run(self.registry.call(method, url, body, budget=100, **options))
        assert answer.status < 500, answer
        return answer

    def fresh(self, size: int) -> bytes:
        """New bytes every time."""
        self.serial += 1
        return random.Random(self.serial).randbytes(size)

    @initialize()
    def warm(self) -> None:
        """The bucket is in use."""
        self.call("POST", f"/v2/{NAME}/blobs/uploads/")

    @rule(target=sessions)
    def start(self) -> Session:
        """POST."""
        return Session(self.call("POST", f"/v2/{NAME}/blobs/uploads/").location)

    @rule(session=sessions, size=SIZES, known=st.booleans(), ranged=st.booleans())
    def append(self, session: Session, size: int, known: bool, ranged: bool) -> None:
        """The next chunk, from the newest location."""
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
        """A stale location: refused with the truth, unless the session has not moved since."""
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
        """A wrong Content-Range: 416, and nothing changes."""
        start = len(session.data) + shift
        if start >= 0:
            headers = {"Content-Range": f"{start}-{start + 4}"}
            answer = self.call("PATCH", session.locations[-1], b"12345", headers=headers)
            assert answer.status == 416
            assert answer.location == session.locations[-1]

    @rule(session=sessions)
    def status(self, session: Session) -> None:
        """GET tells the truth, from any location."""
        answer = self.call("GET", session.locations[0])
        assert answer.headers["Range"] == f"0-{max(len(session.data) - 1, 0)}"
        assert answer.location == session.locations[-1]

    @rule(session=sessions)
    def isolate_restarts(self, session: Session) -> None:
        """Nothing is kept in memory."""
        self.registry.restart()
        self.status(session)

    @rule(session=consumes(sessions), size=SIZES, known=st.booleans(), algorithm=st.sampled_from(["sha256", "sha512"]))
    def close(self, session: Session, size: int, known: bool, algorithm: str) -> None:
        """PUT, with or without last bytes; asked again it says the same."""
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
        """DIGEST_INVALID, and nothing of it stays."""
        answer = self.call("PUT", with_query(session.locations[-1], digest=digest_of(self.fresh(9))))
        assert answer.codes == ["DIGEST_INVALID"] or (session.may_be_void and answer.status == 416)
        uuid = session.locations[0].rpartition("/")[2].partition(".")[0]
        assert self.registry.bucket.keys(f"{NAME}/uploads/{uuid}/") == []

    @rule(session=consumes(sessions))
    def cancel(self, session: Session) -> None:
        """DELETE."""
        assert self.call("DELETE", session.locations[-1]).status == 204

    @invariant()
    def all_is_well(self) -> None:
        """Every acknowledged blob is there, every link has its ref, and no connection was forgotten."""
        check_links(self.registry)
        keys = self.registry.bucket.objects
        for data in self.blobs:
            assert any(f"{NAME}/blobs/{digest_of(data, algorithm)}" in keys for algorithm in ("sha256", "sha512"))


Sessions.TestCase.settings = settings(max_examples=200, stateful_step_count=30)
TestSessions = Sessions.TestCase
