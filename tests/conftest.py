"""Fixtures for the tests on fake bindings."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests import invariants
from tests.fakes.client import FakeRegistry
from tests.unit import test_faults
from tests.unit.upkeep import scenes

# Test machines are slow and shared, so the time of an example means nothing.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture
def registry() -> FakeRegistry:
    """A registry on an empty bucket."""
    return FakeRegistry()


@pytest.fixture
def small_parts() -> Iterator[None]:
    """Scale parts down to a few KiB."""
    with invariants.small_parts():
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the number of tested schedules and of injected faults."""
    if scenes.counted["schedules"]:
        count = scenes.counted["schedules"]
        terminalreporter.write_line(f"garbage collection: {count} schedules without data loss")
    if test_faults.injected["runs"]:
        terminalreporter.write_line(
            f"faults injected: {test_faults.injected['faults']} calls failed, in {test_faults.injected['runs']} runs"
        )
