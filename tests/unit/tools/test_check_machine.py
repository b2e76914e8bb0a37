"""Tests of tools/check-machine: what people without Python 3.11 or npm read before anything is installed."""

import subprocess
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[3] / "tools/check-machine"
MODERN = 'case "$2" in *print*) echo 3.12;; esac; exit 0'
OLD = 'case "$2" in *print*) echo 3.10;; *version_info*) exit 1;; esac'
BARE = 'case "$2" in *ensurepip*) exit 1;; esac'  # Debian's Python without python3-venv
BROKEN = "exit 127"


def program(path: Path, script: str) -> None:
    """Write a program that answers as a Python of some version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("python", "venv", "npm", "words"),
    [
        (MODERN, None, True, ""),
        (MODERN, MODERN, True, ""),
        (OLD, MODERN, True, ""),
        (OLD, None, True, "Python 3.11 or newer is needed, and python3 is 3.10: name a newer one"),
        (None, None, True, "Python 3.11 or newer is needed, and there is no python3: install it"),
        (BARE, None, True, "python3 cannot make a virtual environment: install its package"),
        (MODERN, OLD, True, ".venv has Python 3.10, but 3.11 or newer is needed: remove it"),
        (MODERN, BROKEN, True, ".venv has a Python that no longer runs: remove it"),
        (MODERN, None, False, "npm is needed, and there is none: install Node.js"),
    ],
)
def test_one_sentence(python: str | None, venv: str | None, npm: bool, words: str, tmp_path: Path) -> None:
    """Each problem gives one sentence and exit code 1."""
    for name, script in (("bin/python3", python), (".venv/bin/python", venv), ("bin/npm", "" if npm else None)):
        if script is not None:
            program(tmp_path / name, script)
    done = subprocess.run(  # noqa: S603 - the project's own program
        ["/bin/sh", str(CHECK), "python3", ".venv"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path / "bin")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (1 if words else 0), done.stderr
    assert done.stderr.startswith(words)
    assert done.stderr.count("\n") == (1 if words else 0)
