"""The registry, whose reads of blobs use up their CPU time: the runtime's own signal handler raises."""

import signal
from typing import Any

import entry
from registry.content import blobs

Default = entry.Default


async def _read(*_: Any) -> Any:
    signal.raise_signal(signal.SIGXCPU)


blobs.read = _read  # type: ignore[assignment]
