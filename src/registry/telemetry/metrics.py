"""Metrics of answered requests: counters for Prometheus, data points for Workers Analytics Engine.

An isolate counts only its own requests, and Cloudflare runs any number of isolates: so the counters have the label
`isolate`, and start at zero in each. Analytics Engine receives the data points of all isolates.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from registry.telemetry.request_record import RequestRecord

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus's text format

# Name, member of _Sums, help text.
_FAMILIES = (
    ("requests_total", "requests", "Requests answered."),
    ("request_seconds_total", "seconds", "Seconds from a request to the beginning of its answer."),
    ("received_bytes_total", "received", "Bytes of request bodies."),
    ("sent_bytes_total", "sent", "Bytes of answers, as announced."),
)
_MAX_INDEX = 96  # bytes of a data point's index


class DataPoints(Protocol):
    """A dataset of Workers Analytics Engine."""

    def write(self, index: str, blobs: list[str], doubles: list[float]) -> None:
        """Write one data point. Returns at once, without a confirmation; never raises."""
        ...


@dataclass(slots=True)
class _Sums:
    """Sums over the requests of one endpoint with one status."""

    requests: int = 0
    seconds: float = 0.0
    received: int = 0  # bytes
    sent: int = 0  # bytes


@dataclass(slots=True)
class Metrics:
    """The counters of one isolate."""

    isolate: str
    points: DataPoints | None = None
    _sums: dict[tuple[str, int], _Sums] = field(default_factory=dict)
    _calls: dict[str, int] = field(default_factory=lambda: {"A": 0, "B": 0, "free": 0})

    def note(self, record: RequestRecord, status: int, seconds: float, received: int, sent: int) -> None:
        """Count an answered request; `received` and `sent` are bytes."""
        kind = record.kind or ""
        sums = self._sums.setdefault((kind, status), _Sums())
        sums.requests += 1
        sums.seconds += seconds
        sums.received += received
        sums.sent += sent
        self._calls["A"] += record.class_a
        self._calls["B"] += record.class_b
        self._calls["free"] += record.free
        if self.points is not None:
            repository = record.repository or ""
            blobs = [kind, str(status), repository, record.account or ""]
            doubles = [seconds * 1000, received, sent, record.class_a, record.class_b, record.free]
            index = repository.encode()[:_MAX_INDEX].decode(errors="ignore")
            self.points.write(index, blobs, [float(number) for number in doubles])

    def text(self) -> str:
        """The counters in Prometheus's text format."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        for name, member, meaning in _FAMILIES:
            yield from _family(name, meaning)
            for (kind, status), sums in sorted(self._sums.items()):
                labels = f'isolate="{self.isolate}",endpoint="{kind}",status="{status}"'
                yield f"registry_{name}{{{labels}}} {getattr(sums, member)}"
        yield from _family("r2_calls_total", "Calls of R2, by price class.")
        for price, count in self._calls.items():
            yield f'registry_r2_calls_total{{isolate="{self.isolate}",class="{price}"}} {count}'


def _family(name: str, meaning: str) -> tuple[str, str]:
    return f"# HELP registry_{name} {meaning}", f"# TYPE registry_{name} counter"
