"""Fixtures of the tests on fake bindings."""

import pytest

from registry import blobs, uploads
from tests import test_faults
from tests.fakes import r2
from tests.fakes.client import FakeRegistry
from tests.invariants import PART


@pytest.fixture
def registry() -> FakeRegistry:
    """A registry on an empty bucket."""
    return FakeRegistry()


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that counts in parts, scaled down; R2's own rule with it."""
    monkeypatch.setattr(uploads, "SMALL_PART", PART)
    monkeypatch.setattr(uploads, "LARGE_PART", 4 * PART)
    monkeypatch.setattr(blobs, "LARGE_BLOB", PART)
    monkeypatch.setattr(r2, "MIN_PART_SIZE", PART // 2)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much was broken on purpose."""
    if test_faults.injected["runs"]:
        terminalreporter.write_line(
            f"faults injected: {test_faults.injected['faults']} calls failed, in {test_faults.injected['runs']} runs"
        )
