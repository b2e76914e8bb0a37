"""What a person or a script sees meanwhile: bars on a terminal, plain lines elsewhere, or JSON.

All of it goes to standard error, JSON to standard output; the result alone is on standard output.
"""

import json
import sys
import threading
from collections.abc import Mapping
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


class Report(Protocol):
    """Hears what is going on; callable from every thread. A `label` names a piece of work; sizes are in bytes."""

    def begin(self, label: str, size: int) -> None:
        """A piece of work begins."""

    def reached(self, label: str, position: int) -> None:
        """It is so far; that may be less than before."""

    def advance(self, label: str, count: int) -> None:
        """It is so much farther."""

    def end(self, label: str, outcome: str) -> None:
        """It is done; `outcome` says how. Work that needs nothing ends without having begun."""

    def say(self, text: str) -> None:
        """Something to know."""

    def result(self, reference: str, digest: str, facts: Mapping[str, Any]) -> None:
        """The image is pushed, or would be."""

    def fail(self, message: str, exit_code: int) -> None:
        """The image is not pushed."""

    def close(self) -> None:
        """Nothing follows."""


class Lines:
    """Plain lines: what a log keeps."""

    def __init__(self, out: TextIO, errors: TextIO) -> None:
        self._out = out
        self._errors = errors

    def begin(self, label: str, size: int) -> None:
        self.say(f"{label}: begins, {size} bytes")

    def reached(self, label: str, position: int) -> None:
        pass

    def advance(self, label: str, count: int) -> None:
        pass

    def end(self, label: str, outcome: str) -> None:
        self.say(f"{label}: {outcome}")

    def say(self, text: str) -> None:
        print(printable(text), file=self._errors, flush=True)

    def result(self, reference: str, digest: str, facts: Mapping[str, Any]) -> None:  # noqa: ARG002 - the protocol's
        print(f"{reference}@{digest}", file=self._out, flush=True)

    def fail(self, message: str, exit_code: int) -> None:  # noqa: ARG002 - the protocol's
        self.say(f"registry-push: {message}")

    def close(self) -> None:
        pass


class Bars(Lines):
    """A bar for each piece of work, on a terminal."""

    def __init__(self, out: TextIO, errors: TextIO) -> None:
        super().__init__(out, errors)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[outcome]}"),
            console=Console(file=errors),
        )
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()
        self._progress.start()

    def begin(self, label: str, size: int) -> None:
        with self._lock:
            self._tasks[label] = self._progress.add_task(label, total=size, outcome="")

    def reached(self, label: str, position: int) -> None:
        self._progress.update(self._tasks[label], completed=position)

    def advance(self, label: str, count: int) -> None:
        self._progress.advance(self._tasks[label], count)

    def end(self, label: str, outcome: str) -> None:
        if label not in self._tasks:
            self.begin(label, 0)
        task = self._tasks[label]
        total = self._progress.tasks[task].total or 1
        self._progress.update(task, completed=total, total=total, outcome=outcome)

    def say(self, text: str) -> None:
        self._progress.console.print(printable(text), markup=False, highlight=False)

    def result(self, reference: str, digest: str, facts: Mapping[str, Any]) -> None:
        self.close()
        super().result(reference, digest, facts)

    def close(self) -> None:
        self._progress.stop()


class JsonLines:
    """One JSON object a line, on standard output; docs/push.md lists them."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def begin(self, label: str, size: int) -> None:
        self._write(event="begin", label=label, size=size)

    def reached(self, label: str, position: int) -> None:
        pass

    def advance(self, label: str, count: int) -> None:
        pass

    def end(self, label: str, outcome: str) -> None:
        self._write(event="end", label=label, outcome=outcome)

    def say(self, text: str) -> None:
        self._write(event="message", text=text)

    def result(self, reference: str, digest: str, facts: Mapping[str, Any]) -> None:
        self._write(event="result", reference=reference, digest=digest, **facts)

    def fail(self, message: str, exit_code: int) -> None:
        self._write(event="failure", message=message, exit_code=exit_code)

    def close(self) -> None:
        pass

    def _write(self, **fields: Any) -> None:
        print(json.dumps(fields), file=self._out, flush=True)


def printable(text: str) -> str:
    """Text that does nothing to a terminal: some of it are words of registries and names in archives."""
    return "".join(each if each.isprintable() or each == "\n" else "?" for each in text)


def new_report(*, as_json: bool) -> Report:
    """The one that suits who is looking."""
    if as_json:
        return JsonLines(sys.stdout)
    return (Bars if sys.stderr.isatty() else Lines)(sys.stdout, sys.stderr)
