"""`make ops`: measures the R2 calls of every flow, and compares their price with serverless-registry's.

With JSON=1 it prints one object: {flow: {"A", "B", "free", "written", "read"}}, with "heap" in bytes for flows with
such a budget. ONLY= selects flows, separated by commas.
"""

import asyncio
import contextlib
import io
import json
import os
import subprocess
import sys

from tests.fakes.r2 import Usage
from tests.flows import FLOWS, MIB, OVERHEAD, measure

# The calls of serverless-registry for the same image and client, counted in the same way: Class A, Class B.
SERVERLESS_REGISTRY = {
    "skopeo-push-5-layers": (41, 38),
    "skopeo-repush-5-layers": (5, 15),
    "skopeo-second-repo-5-layers": (16, 28),
    "skopeo-pull-5-layers": (0, 7),
}
# US dollars per call beyond the free tier: https://developers.cloudflare.com/r2/pricing/, Standard storage.
PRICE_A, PRICE_B = 4.50 / 1_000_000, 0.36 / 1_000_000


def _counts(class_a: int, class_b: int) -> str:
    """Format both counts, and the price of a thousand such flows."""
    return f"{class_a:>5} {class_b:>4}  ${1000 * (class_a * PRICE_A + class_b * PRICE_B):.3f}"


def _compare(usages: dict[str, Usage]) -> None:
    print(f"\n{'':<28} {'ours: A':>7} {'B':>2} {'price of 1,000':>15} {'SR: A':>7} {'B':>4} {'price of 1,000':>15}")
    for name, theirs in SERVERLESS_REGISTRY.items():
        usage = usages[name]
        print(f"{name:<28} {_counts(usage.class_a, usage.class_b)}           {_counts(*theirs)}")


def _row(name: str, usage: Usage, heap: int | None) -> tuple[str, bool]:
    flow = FLOWS[name]
    times = f"{usage.written / flow.size:.2f}x" if flow.size else "-"
    fits = usage.class_a <= flow.class_a and usage.class_b <= flow.class_b
    fits = fits and (not flow.size or usage.written <= flow.size * flow.written + OVERHEAD)
    fits = fits and (flow.calls is None or usage.class_a + usage.class_b + usage.free <= flow.calls)
    fits = fits and (heap is None or flow.heap is None or heap <= flow.heap)
    budget = f"{flow.class_a:>5} {flow.class_b:>5} {f'{flow.written:.2f}x' if flow.size else '-':>6}"
    memory = f"  {heap / MIB:.1f} of {flow.heap / MIB:.0f} MiB of heap" if heap and flow.heap else ""
    row = f"{name:<28} {usage.class_a:>5} {usage.class_b:>5} {times:>8}   {budget}{memory}  {'' if fits else 'OVER'}"
    return row, fits


def _heap() -> int:
    """The bytes of a garbage collection beyond the interpreter's own, in Pyodide."""
    script = ["node_modules/.bin/node", "tests/heap.mjs"]
    printed = subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603
    heap: int = json.loads(printed)["heap"]
    return heap


def main() -> int:
    """Measure and print all flows; returns 1 when one is over its budget."""
    names = os.environ.get("ONLY", "").split(",") if os.environ.get("ONLY") else list(FLOWS)
    # Drops the registry's log, which also goes to standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        usages = {name: asyncio.run(measure(name)).bucket.usage for name in names}
    heaps = {name: _heap() for name in names if FLOWS[name].heap is not None}
    if os.environ.get("JSON") == "1":
        counts = {
            name: {"A": u.class_a, "B": u.class_b, "free": u.free, "written": u.written, "read": u.read}
            for name, u in usages.items()
        }
        print(
            json.dumps(
                {name: count | ({"heap": heaps[name]} if name in heaps else {}) for name, count in counts.items()}
            )
        )
        return 0
    print(f"{'flow':<28} {'A':>5} {'B':>5} {'written':>8}   {'budget: A':>5} {'B':>3} {'written':>6}")
    rows = [_row(name, usage, heaps.get(name)) for name, usage in usages.items()]
    for row, _ in rows:
        print(row.rstrip())
    if set(SERVERLESS_REGISTRY) <= set(names):
        _compare(usages)
    return 0 if all(fits for _, fits in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
