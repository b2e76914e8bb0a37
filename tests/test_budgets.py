"""R2 calls and bytes of every flow stay within their budgets (`tests.flows`)."""

import pytest

from tests.flows import FLOWS, OVERHEAD, measure


@pytest.mark.parametrize("name", FLOWS)
async def test_budget(name: str) -> None:
    """Class A, Class B, bytes written; and no key is written twice within a second."""
    flow, usage = FLOWS[name], (await measure(name)).bucket.usage
    assert usage.class_a <= flow.class_a
    assert usage.class_b <= flow.class_b
    assert flow.calls is None or usage.class_a + usage.class_b + usage.free <= flow.calls
    if flow.size:
        assert usage.written <= flow.size * flow.written + OVERHEAD
