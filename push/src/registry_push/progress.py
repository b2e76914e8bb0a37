"""Shows progress: bars on a terminal, plain lines elsewhere, or JSON for scripts.

Text goes to standard error, except for the result, which goes to standard output. All JSON goes to standard output.
"""

import json
import sys
import threading
from collections.abc import Mapping
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

# Characters. With the longest label (21) and state (38), and spaces between them, a line has 79 of 80.
_BAR_WIDTH = 18
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class Report(Protocol):
    """Receives the events of a run, from any thread. A `label` names a task; sizes are in bytes."""

    def begin(self, label: str, size: int | None) -> None:
        """A task begins; `size` is None if it is not known."""

    def resumed(self, label: str, position: int) -> None:
        """A task continues at `position`, which an earlier run has reached."""

    def reached(self, label: str, position: int) -> None:
        """A task has reached `position`, which may be less than before."""

    def advance(self, label: str, count: int) -> None:
        """A task has processed `count` further bytes."""

    def end(self, label: str, outcome: str) -> None:
        """A task is done; `outcome` says how. A task with nothing to do ends without having begun."""

    def say(self, text: str) -> None:
        """A message for the user."""

    def result(self, reference: str, digest: str, facts: Mapping[str, Any]) -> None:
        """The image was pushed, or would have been with --dry-run; `facts` are the counts."""

    def fail(self, message: str, exit_code: int) -> None:
        """The command failed."""

    def close(self) -> None:
        """No event follows."""


class Lines:
    """Plain lines, for logs."""

    def __init__(self, out: TextIO, errors: TextIO) -> None:
        self._out = out
        self._errors = errors

    def begin(self, label: str, size: int | None) -> None:
        self.say(f"{label}: begins" + ("" if size is None else f", {size} bytes"))

    def resumed(self, label: str, position: int) -> None:
        self.say(f"{label}: resumes at byte {position}")

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
    """A bar for each task, on a terminal."""

    def __init__(self, out: TextIO, errors: TextIO) -> None:
        super().__init__(out, errors)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(_BAR_WIDTH),
            _State(table_column=Column(no_wrap=True)),
            console=Console(file=errors),
        )
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()
        self._progress.start()

    def begin(self, label: str, size: int | None) -> None:
        with self._lock:
            self._tasks[label] = self._progress.add_task(label, total=size, outcome="")

    def resumed(self, label: str, position: int) -> None:
        # Not `reached`: the bytes of the earlier run are not part of this run's speed.
        self._progress.reset(self._tasks[label], completed=position)

    def reached(self, label: str, position: int) -> None:
        self._progress.update(self._tasks[label], completed=position)

    def advance(self, label: str, count: int) -> None:
        self._progress.advance(self._tasks[label], count)

    def end(self, label: str, outcome: str) -> None:
        if label not in self._tasks:
            super().end(label, outcome)  # a line: without a size, a bar would show nothing
            return
        task = self._tasks[label]
        known = self._progress.tasks[task]
        size = known.completed if known.total is None else known.total
        self._progress.update(task, completed=size, total=size, outcome=outcome)

    def say(self, text: str) -> None:
        self._progress.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def result(self, reference: str, digest: str, facts: Mapping[str, Any]) -> None:
        self.close()
        super().result(reference, digest, facts)

    def close(self) -> None:
        self._progress.stop()


class _State(ProgressColumn):
    """The state of a task: transferred and total size, speed and remaining time; at the end its size and outcome."""

    def render(self, task: Task) -> Text:
        """Return the state of one task."""
        if task.fields["outcome"]:
            return Text(f"{_shown_size(task.completed)} {task.fields['outcome']}")
        words = [_shown_size(task.completed)]
        if task.total is not None:
            words = [f"{words[0]}/{_shown_size(task.total)}"]
        if task.speed:
            words.append(f"{_shown_size(task.speed)}/s")
        if task.time_remaining is not None:
            minutes, seconds = divmod(int(task.time_remaining), 60)
            words.append(f"{minutes}:{seconds:02}")
        return Text(" ".join(words))


class JsonLines:
    """One JSON object per line, on standard output; docs/push.md lists them."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def begin(self, label: str, size: int | None) -> None:
        self._write(event="begin", label=label, size=size)

    def resumed(self, label: str, position: int) -> None:
        self.say(f"{label}: resumes at byte {position}")

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
    """Text without control characters: messages of registries and names in archives must not control the terminal."""
    return "".join(each if each.isprintable() or each == "\n" else "?" for each in text)


def _shown_size(count: float) -> str:
    """A number of bytes with a binary unit, in at most 10 characters."""
    power = 0
    while count >= 1000 and power < len(_UNITS) - 1:
        count /= 1024
        power += 1
    return f"{count:.1f} {_UNITS[power]}" if power else f"{count:.0f} B"


def new_report(*, as_json: bool) -> Report:
    """JSON if asked for, else bars if standard error is a terminal, else plain lines."""
    if as_json:
        return JsonLines(sys.stdout)
    return (Bars if sys.stderr.isatty() else Lines)(sys.stdout, sys.stderr)
