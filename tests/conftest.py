"""Fixtures of the tests on fake bindings."""

import pytest

from tests.fakes.client import FakeRegistry


@pytest.fixture
def registry() -> FakeRegistry:
    """A registry on an empty bucket."""
    return FakeRegistry()
