"""Each file of examples/ can be parsed, and the registry accepts each example of its settings."""

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.settings import read_settings

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(path for path in EXAMPLES.rglob("*") if path.is_file())
SETTINGS = [path for path in FILES if path.parent.name == "settings"]
SCALAR = re.compile(r"\"[^\"\\]*\"|'[^']*'|\[[^\[\]{}]*\]|[^\s\[\]{}&*!|>'\"%@`#,:-](?:(?!: | #)[^\t])*")
KEY = re.compile(r"([\w.-]+):(?: (.+))?")


def example(*suffixes: str) -> pytest.MarkDecorator:
    """Run a test with each example of these types."""
    chosen = [path for path in FILES if path.suffix in suffixes]
    assert chosen
    return pytest.mark.parametrize("path", chosen, ids=lambda path: str(path.relative_to(EXAMPLES)))


class Yaml:
    """A reader of the part of YAML that the examples use; anything else is an error.

    It knows block mappings, block sequences, `|` blocks, one-line scalars and flat lists. Scalars stay strings.
    """

    def __init__(self, text: str) -> None:
        assert "\t" not in text
        self._lines = [line.rstrip() for line in text.splitlines()]
        self._at = 0

    def document(self) -> object:
        """Read all of the text as one document."""
        value = self._block(0)
        assert self._next() is None, self._lines[self._at]
        return value

    def _next(self) -> int | None:
        """Skip comments and empty lines; return the indent of the line, or None at the end."""
        while self._at < len(self._lines) and self._lines[self._at].lstrip()[:1] in ("", "#"):
            self._at += 1
        if self._at == len(self._lines):
            return None
        line = self._lines[self._at]
        return len(line) - len(line.lstrip())

    def _block(self, indent: int) -> object:
        assert self._next() == indent, f"line {self._at + 1}: wrong indent"
        return self._sequence(indent) if self._lines[self._at][indent:].startswith("- ") else self._mapping(indent)

    def _sequence(self, indent: int) -> list[object]:
        values: list[object] = []
        while self._next() == indent and self._lines[self._at][indent:].startswith("- "):
            rest = self._lines[self._at][indent + 2 :]
            if KEY.fullmatch(rest):
                self._lines[self._at] = " " * (indent + 2) + rest
                values.append(self._mapping(indent + 2))
            else:
                self._at += 1
                values.append(self._scalar(rest))
        return values

    def _mapping(self, indent: int) -> dict[str, object]:
        values: dict[str, object] = {}
        while self._next() == indent:
            found = KEY.fullmatch(self._lines[self._at][indent:])
            assert found, f"line {self._at + 1}: {self._lines[self._at]}"
            name, rest = found.groups()
            assert name not in values, f"line {self._at + 1}: {name} is there twice"
            self._at += 1
            values[name] = self._value(rest, indent)
        return values

    def _value(self, rest: str | None, indent: int) -> object:
        if rest == "|":
            return "\n".join(self._literal(indent))
        if rest is not None:
            return self._scalar(rest)
        below = self._next()
        assert below is not None
        assert below > indent, f"line {self._at + 1}: a value is missing"
        return self._block(below)

    def _literal(self, indent: int) -> Iterator[str]:
        first = self._lines[self._at]
        margin = len(first) - len(first.lstrip())
        assert margin > indent
        while self._at < len(self._lines) and (
            not self._lines[self._at] or self._lines[self._at].startswith(" " * margin)
        ):
            yield self._lines[self._at][margin:]
            self._at += 1

    def _scalar(self, text: str) -> str:
        assert SCALAR.fullmatch(text), f"line {self._at}: quote {text}"
        return text


def documents(path: Path) -> list[object]:
    """The YAML documents of a file."""
    return [Yaml(text).document() for text in re.split(r"^---$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)]


def check_shell(script: str) -> None:
    """Parse a POSIX shell script without running it."""
    parsed = subprocess.run(["/bin/sh", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (parsed.returncode, parsed.stderr) == (0, "")


@pytest.mark.parametrize(
    "wrong", ["a: b: c", "a:\n b: 1\n  c: 2", "a: 1\na: 2", "a: [", "- a\nb: 1", "a:", "a: 'b", "a: - b", "\ta: 1"]
)
def test_the_reader_of_yaml_is_strict(wrong: str) -> None:
    """Invalid YAML, and YAML that no example needs, is an error."""
    with pytest.raises(AssertionError):
        Yaml(wrong).document()


def test_the_reader_of_yaml() -> None:
    """It reads what the examples use."""
    text = "a: 1\n# comment\nb:\n  - c: x y\n    d: |\n      e: f\n       g\n  - h\n"
    assert Yaml(text).document() == {"a": "1", "b": [{"c": "x y", "d": "e: f\n g"}, "h"]}


@example(".yml", ".yaml")
def test_yaml(path: Path) -> None:
    """Each document is a mapping."""
    for document in documents(path):
        assert isinstance(document, dict)


@pytest.mark.parametrize("name", ["password.yml", "oidc.yml"])
def test_github_actions(name: str) -> None:
    """A workflow's steps are shell scripts, and no expression is part of one."""
    (workflow,) = documents(EXAMPLES / "github-actions" / name)
    assert isinstance(workflow, dict)
    assert {"name", "on", "permissions", "jobs"} == set(workflow)
    assert workflow["permissions"].get("id-token") == ("write" if name == "oidc.yml" else None)
    for step in workflow["jobs"]["push"]["steps"]:
        check_shell(re.sub("set -o pipefail\n", "", step.get("run", "")))
        assert "${{" not in step.get("run", "")


def test_gitlab_ci() -> None:
    """Each line of the job's script is a shell script; the audience is that of the setting."""
    (file,) = documents(EXAMPLES / "gitlab-ci/.gitlab-ci.yml")
    assert isinstance(file, dict)
    for line in file["push"]["script"]:
        check_shell(line)
    values = tomllib.loads((EXAMPLES / "settings/gitlab-oidc.toml").read_text(encoding="utf-8"))
    (issuer,) = read_settings(values.get).access.issuers
    assert file["push"]["id_tokens"]["REGISTRY_TOKEN"]["aud"] == issuer.audience


@example(".toml", ".conf")
def test_toml(path: Path) -> None:
    """Settings of the registry, containerd's hosts.toml, and registries.conf of podman are TOML."""
    assert tomllib.loads(path.read_text(encoding="utf-8"))


@example(".json")
def test_json(path: Path) -> None:
    """Files that programs read as JSON have no comments."""
    assert json.loads(path.read_text(encoding="utf-8"))


@example(".sh")
def test_shell(path: Path) -> None:
    """Scripts stop at the first error, and may be run as they are."""
    script = path.read_text(encoding="utf-8")
    assert script.startswith("#!/bin/sh\n")
    assert "\nset -eu\n" in script
    assert path.stat().st_mode & 0o111
    check_shell(script)


def values_of(text: str, name: str) -> dict[str, str]:
    """The settings of an example, with a secret for each upstream."""
    values = {"ACCOUNTS_JSON": text} if name.endswith(".json") else tomllib.loads(text)
    return {**values, "HUB_TOKEN": "secret"}


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: path.name)
def test_settings(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The registry accepts the settings without a message."""
    values = values_of(path.read_text(encoding="utf-8"), path.name)
    assert read_settings(values.get) != read_settings(dict[str, str]().get)
    assert capsys.readouterr().out == ""


def test_settings_in_pages(capsys: pytest.CaptureFixture[str]) -> None:
    """The registry accepts the settings in the pages as well."""
    blocks = re.findall(r"```toml\n(.*?)```", (EXAMPLES / "docker-mirror/README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        assert read_settings(values_of(block, ".toml").get).upstreams
    assert capsys.readouterr().out == ""


def test_every_example_is_listed() -> None:
    """The page names every file; and every type of file has a test, but Renovate's configuration in JavaScript."""
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in FILES:
        if path.name != "README.md":
            assert f"({path.relative_to(EXAMPLES).as_posix()})" in page
        assert path.suffix in {".yml", ".yaml", ".toml", ".conf", ".json", ".sh", ".md", ".js"}
