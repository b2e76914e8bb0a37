"""No parser breaks, or looks at everything again and again, whatever it is given (`tests.fuzz`)."""

import gc
import json
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.spec.untrusted_json import read_json
from tests.fakes.client import FakeRegistry
from tests.fuzz import LARGER, LONG, TARGETS, Target, check, generate, long_inputs


@pytest.fixture(scope="module", autouse=True)
def _clock() -> None:
    """PyJWT asks the clock of the registry that was made last."""
    FakeRegistry()


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"[" * 1_000_000, "has more than 100000 values"),
        (b"[" * 33, "is nested more than 32 deep"),
        (b'{"a":' * 33 + b"1" + b"}" * 33, "is nested more than 32 deep"),
        (b"[" * 32 + b"]" * 32, None),
        (b'"' + b"[" * 1000 + b'"', None),
        (b'"\\"' + b"[" * 1000 + b'"', None),
        (b'["\\\\"' + b",[" * 32 + b"]" * 33, "is nested more than 32 deep"),
        (b'"' + b'\\"' * 500_000, "is not JSON in UTF-8"),
        (b"[" + b"0," * 99_998 + b"0]", None),
        (b"[" + b"0," * 100_000 + b"0]", "has more than 100000 values"),
        (b'{"a":1,"\\u0061":2}', 'has the name "a" twice in one object'),
        (b'[{"a":1},{"a":1}]', None),
        (b"\xff", "is not JSON in UTF-8"),
        (b"\xef\xbb\xbf{}", "is not JSON in UTF-8"),
        ("{}".encode("utf-16"), "is not JSON in UTF-8"),
        (b"-Infinity", "is not JSON in UTF-8"),
        (b"[" + '"\U0001f600",'.encode() * 200_000 + b"0]", "has more than"),
        (b" " * 1_048_577, "has more than 1048576 bytes"),
    ],
)
def test_what_is_read(document: bytes, reason: str | None) -> None:
    """Nesting and values are counted before the parser sees them: brackets within strings are none."""
    if reason is None:
        assert read_json(document, 1024 * 1024) == json.loads(document)
    else:
        with pytest.raises(ValueError, match=reason):
            read_json(document, 1024 * 1024)


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name: str) -> None:
    """What looks right."""
    for text in TARGETS[name].corpus:
        check(TARGETS[name], text)


def _seconds(target: Target, text: str) -> float:
    """The least CPU time of a few runs: what other processes take does not count."""
    times = []
    gc.collect()
    gc.disable()  # it looks at everything again and again
    try:
        for _ in range(3):
            began = time.thread_time()
            check(target, text)
            times.append(time.thread_time() - began)
    finally:
        gc.enable()
    return min(times)


@pytest.mark.parametrize("name", TARGETS)
def test_long_inputs(name: str) -> None:
    """Of two inputs of one kind the longer one takes as much longer as it has more characters, with room.

    A loop within a loop would take LARGER times as much as that.
    """
    target = TARGETS[name]
    pairs = zip(long_inputs(target.corpus, LONG), long_inputs(target.corpus, LARGER * LONG), strict=True)
    for short, long in pairs:
        # A thousandth of a second is what a clock may be off.
        ratio = _seconds(target, long) / (_seconds(target, short) + 0.001)
        assert ratio < 6 * LARGER, f"{ratio:.0f} times as long for {long[:100]!r}"


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=150)
@given(rng=st.randoms(use_true_random=False), free=st.text(st.characters(exclude_categories=["Cs"])))
def test_generated_inputs(name: str, rng: random.Random, free: str) -> None:
    """What was made of the corpus, and any text."""
    check(TARGETS[name], generate(rng, TARGETS[name].corpus))
    check(TARGETS[name], free)
