"""The fake R2 passes the contract, including the cases that Miniflare does not enforce."""

import pytest

from registry.ports.platform import Machine, make_platform
from tests.contract.storage_contract import CASES, Bench
from tests.fakes.client import Clock
from tests.fakes.machine import FakeCrypto, FakeWeb
from tests.fakes.r2 import FakeR2
from tests.fakes.streams import FakeSource, FakeStreams


@pytest.mark.parametrize("name", CASES)
async def test_contract(name: str) -> None:
    """Run one case of the contract."""
    clock = Clock()

    async def wait(seconds: float) -> None:
        clock.now += seconds

    def source(data: bytes, size: int | None) -> FakeSource:
        return FakeSource([data[at : at + 10_000] for at in range(0, len(data), 10_000)], size)

    bucket = FakeR2(clock)
    machine = Machine(FakeCrypto(), FakeWeb(), clock, wait, lambda n: "00" * n)
    platform = make_platform(bucket, FakeStreams(), machine)
    await CASES[name](Bench(platform, bucket, source, wait))
