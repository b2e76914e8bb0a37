"""A registry with an upstream."""

import pytest

from tests.fakes.client import FakeRegistry
from tests.fakes.upstream import UPSTREAM, FakeUpstream
from tests.unit.upstream.support import LAYERS, NAME, with_upstreams


@pytest.fixture
def upstream() -> FakeUpstream:
    """An upstream registry, with an image of three layers."""
    upstream = FakeUpstream()
    upstream.push(NAME, "1", LAYERS)
    return upstream


@pytest.fixture
def registry(upstream: FakeUpstream) -> FakeRegistry:
    """A registry with that upstream."""
    registry = with_upstreams({"registry": UPSTREAM})
    registry.web.servers[UPSTREAM] = upstream
    return registry
