"""`make ops`: the R2 calls of every flow, and what they cost beside serverless-registry's.

With JSON=1 one object: {flow: {"A", "B", "free", "written", "read"}}.
"""

import asyncio
import json
import os
import sys

from tests.fakes.r2 import Usage
from tests.flows import FLOWS, OVERHEAD, measure

# What serverless-registry takes for the same image by the same client, counted as ours is: Class A, Class B.
SERVERLESS_REGISTRY = {
    "skopeo-push-5-layers": (41, 38),
    "skopeo-repush-5-layers": (5, 15),
    "skopeo-second-repo-5-layers": (16, 28),
    "skopeo-pull-5-layers": (0, 7),
}
# US dollars of one call beyond the free ones: https://developers.cloudflare.com/r2/pricing/, Standard storage.
PRICE_A, PRICE_B = 4.50 / 1_000_000, 0.36 / 1_000_000


def _counts(class_a: int, class_b: int) -> str:
    """Both counts, and what a thousand of such a flow cost."""
    return f"{class_a:>5} {class_b:>4}  ${1000 * (class_a * PRICE_A + class_b * PRICE_B):.3f}"


def _compare(usages: dict[str, Usage]) -> None:
    print(f"\n{'':<28} {'ours: A':>7} {'B':>2} {'price of 1,000':>15} {'SR: A':>7} {'B':>4} {'price of 1,000':>15}")
    for name, theirs in SERVERLESS_REGISTRY.items():
        usage = usages[name]
        print(f"{name:<28} {_counts(usage.class_a, usage.class_b)}           {_counts(*theirs)}")


def _row(name: str, usage: Usage) -> tuple[str, bool]:
    flow = FLOWS[name]
    times = f"{usage.written / flow.size:.2f}x" if flow.size else "-"
    fits = usage.class_a <= flow.class_a and usage.class_b <= flow.class_b
    fits = fits and (not flow.size or usage.written <= flow.size * flow.written + OVERHEAD)
    budget = f"{flow.class_a:>4} {flow.class_b:>4} {f'{flow.written:.2f}x' if flow.size else '-':>6}"
    return f"{name:<28} {usage.class_a:>4} {usage.class_b:>4} {times:>8}   {budget}  {'' if fits else 'OVER'}", fits


def main() -> int:
    """Measure, print, and fail when a budget is missed."""
    usages = {name: asyncio.run(measure(name)).bucket.usage for name in FLOWS}
    if os.environ.get("JSON") == "1":
        counts = {
            name: {"A": u.class_a, "B": u.class_b, "free": u.free, "written": u.written, "read": u.read}
            for name, u in usages.items()
        }
        print(json.dumps(counts))
        return 0
    print(f"{'flow':<28} {'A':>4} {'B':>4} {'written':>8}   {'budget: A':>4} {'B':>2} {'written':>6}")
    rows = [_row(name, usage) for name, usage in usages.items()]
    for row, _ in rows:
        print(row.rstrip())
    _compare(usages)
    return 0 if all(fits for _, fits in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
