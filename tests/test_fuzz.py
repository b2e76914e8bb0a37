"""No parser breaks or takes long, whatever it is given (`tests.fuzz`)."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.untrusted_json import read_json
from tests.fakes.client import FakeRegistry
from tests.fuzz import TARGETS, check, generate, long_inputs


@pytest.fixture(scope="module", autouse=True)
def _clock() -> None:
    """PyJWT asks the clock of the registry that was made last."""
    FakeRegistry()


def test_deep_nesting() -> None:
    """An upstream's or an issuer's answer is wrong, and no RecursionError."""
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(b"[" * 1_000_000)


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name: str) -> None:
    """What looks right."""
    for text in TARGETS[name].corpus:
        check(TARGETS[name], text)


@pytest.mark.parametrize("name", TARGETS)
def test_long_inputs(name: str) -> None:
    """64 KiB of the same thing take no longer than anything else."""
    for text in long_inputs(TARGETS[name].corpus):
        check(TARGETS[name], text)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=150, deadline=None)
@given(rng=st.randoms(use_true_random=False), free=st.text(st.characters(exclude_categories=["Cs"])))
def test_generated_inputs(name: str, rng: random.Random, free: str) -> None:
    """What was made of the corpus, and any text."""
    check(TARGETS[name], generate(rng, TARGETS[name].corpus))
    check(TARGETS[name], free)
