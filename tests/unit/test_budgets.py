"""R2 calls and bytes of every flow stay within their budgets (`tests.flows`)."""

import json
import os
import subprocess
import sys

import pytest

from tests.flows import FLOWS, OVERHEAD, Flow, measure

# The slow flows. That of 1.7 million objects runs only with the harder page size.
AT_SCALE = [name for name, flow in FLOWS.items() if 400 <= (flow.calls or 0) < 3_000]


@pytest.mark.parametrize("name", FLOWS)
async def test_budget(name: str) -> None:
    """A flow stays within its calls and bytes, and writes no key twice within a second."""
    await check(name, page_with_metadata=100)


@pytest.mark.parametrize("name", AT_SCALE)
async def test_budget_with_larger_pages(name: str) -> None:
    """The budgets hold also when a page with metadata is as long as any other."""
    await check(name, page_with_metadata=1_000)


async def check(name: str, page_with_metadata: int) -> None:
    """Measure a flow and check its budget."""
    flow: Flow = FLOWS[name]
    usage = (await measure(name, page_with_metadata)).bucket.usage
    assert usage.class_a <= flow.class_a
    assert usage.class_b <= flow.class_b
    assert flow.calls is None or usage.class_a + usage.class_b + usage.free <= flow.calls
    if flow.size:
        assert usage.written <= flow.size * flow.written + OVERHEAD


def test_ops_for_a_machine() -> None:
    """`make ops` with JSON=1 prints one object and nothing else."""
    variables = {**os.environ, "PYTHONPATH": "src:.", "JSON": "1", "ONLY": "post,gc-50"}
    command = [sys.executable, "-m", "tests.ops"]
    printed = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)  # noqa: S603
    found = json.loads(printed.stdout)
    assert set(found) == {"post", "gc-50"}
    assert set(found["post"]) == {"A", "B", "free", "written", "read"}
    assert len(printed.stdout.splitlines()) == 1
