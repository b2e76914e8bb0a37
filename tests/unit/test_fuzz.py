"""No parser fails unexpectedly or takes quadratic time on any input (`tests.fuzz`)."""

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
    """Set the clock that PyJWT uses."""
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
    """Nesting and values are limited before the parser runs; brackets within strings do not count."""
    if reason is None:
        assert read_json(document, 1024 * 1024) == json.loads(document)
    else:
        with pytest.raises(ValueError, match=reason):
            read_json(document, 1024 * 1024)


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name: str) -> None:
    """Mutations of valid inputs raise no unexpected error."""
    for text in TARGETS[name].corpus:
        check(TARGETS[name], text)


def _seconds(target: Target, text: str) -> float:
    """The least CPU time of a few runs, to exclude the influence of other processes."""
    times = []
    gc.collect()
    gc.disable()  # its time depends on all objects of the process
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
    """The time of similar inputs grows linearly with their size, up to a constant factor.

    Quadratic time would exceed it by a further factor of LARGER.
    """
    target = TARGETS[name]
    pairs = zip(long_inputs(target.corpus, LONG), long_inputs(target.corpus, LARGER * LONG), strict=True)
    for short, long in pairs:
        # The millisecond allows for the error of the clock.
        ratio = _seconds(target, long) / (_seconds(target, short) + 0.001)
        assert ratio < 6 * LARGER, f"{ratio:.0f} times as long for {long[:100]!r}"


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=150)
@given(rng=st.randoms(use_true_random=False), free=st.text(st.characters(exclude_categories=["Cs"])))
def test_generated_inputs(name: str, rng: random.Random, free: str) -> None:
    """Neither mutations of the corpus nor any other text raise an unexpected error."""
    check(TARGETS[name], generate(rng, TARGETS[name].corpus))
    check(TARGETS[name], free)
