"""The programs that the tests run: clients, one command at a time, and servers beside them."""

import os
import shlex
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

# Seconds. The longest command moves 135 MiB over the loopback in a few seconds.
COMMAND_SECONDS = 60
START_SECONDS = 60
STOP_SECONDS = 20

# Lines of a server's output that a failed test shows at most.
OUTPUT_LINES = 200


@dataclass(frozen=True, slots=True)
class Client:
    """A command-line client with an environment of its own: nothing is inherited."""

    program: Path
    environment: Mapping[str, str]
    folder: Path | None = None

    def succeeds(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command that has to exit with 0."""
        result = self._run(arguments, stdin)
        assert result.returncode == 0, f"exit code {result.returncode}, not 0\n{shown(result)}"
        return result

    def fails(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command that has to exit with another code than 0."""
        result = self._run(arguments, stdin)
        assert result.returncode != 0, f"exit code 0, not a failure\n{shown(result)}"
        return result

    def inside(self, folder: Path, settings: Mapping[str, str]) -> "Client":
        """Return the same client, which runs in a folder and with more in its environment."""
        return Client(self.program, {**self.environment, **settings}, folder)

    def _run(self, arguments: Sequence[str], stdin: str) -> subprocess.CompletedProcess[str]:
        assert self.program.exists(), f"{self.program} is missing: run tests/clients/install.sh"
        command = [str(self.program), *arguments]
        with subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                output, errors = process.communicate(stdin, timeout=COMMAND_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                result = subprocess.CompletedProcess(command, -1, *process.communicate())
                problem = f"not done after {COMMAND_SECONDS} s\n{shown(result)}"
                raise AssertionError(problem) from None
        return subprocess.CompletedProcess(command, process.returncode, output, errors)


def shown(result: subprocess.CompletedProcess[str]) -> str:
    """Return the command and everything that it printed."""
    return f"$ {shlex.join(result.args)}\n{result.stdout}{result.stderr}"


class Server:
    """A program that serves while the block runs; it is ready when it prints `ready`."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], ready: str) -> None:
        """Describe the program; entering the block starts it."""
        self.name = name
        # SIGTERM when pytest dies without stopping it: no server outlives the tests.
        self._command = ["setpriv", "--pdeathsig", "TERM", "--", *command]
        self._environment = environment
        self._ready = ready
        self._output: deque[str] = deque(maxlen=OUTPUT_LINES)
        self._is_ready = False
        self._ready_or_gone = threading.Event()

    def __enter__(self) -> Self:
        """Start the program in a process group of its own and wait until it is ready."""
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._ready_or_gone.wait(START_SECONDS)
        if not self._is_ready:
            self._stop()
            command = shlex.join(self._command)
            problem = f"{self.name} did not print {self._ready!r}\n$ {command}\n{self.output()}"
            raise AssertionError(problem)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the program and what it started."""
        assert self._stop(), f"{self.name} ignored SIGTERM for {STOP_SECONDS} s\n{self.output()}"

    @property
    def pid(self) -> int:
        """Return the program's process."""
        return self._process.pid

    def output(self) -> str:
        """Return the last lines that the program printed."""
        return "".join(tuple(self._output))

    def forget_output(self) -> None:
        """Begin anew with what `output` returns."""
        self._output.clear()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._output.append(line)
                if self._ready in line:
                    self._is_ready = True
                    self._ready_or_gone.set()
        self._ready_or_gone.set()

    def _stop(self) -> bool:
        """Ask the process group to end, insist after a while; tell whether asking was enough.

        The output ends when the last process that inherited it has ended, children included.
        """
        os.killpg(self._process.pid, signal.SIGTERM)
        self._reader.join(STOP_SECONDS)
        stopped = not self._reader.is_alive()
        if not stopped:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._reader.join()
        self._process.wait()
        return stopped
