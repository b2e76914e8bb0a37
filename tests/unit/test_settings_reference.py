"""docs/settings.md matches the code: every setting, its default, its example, and the message for a wrong value."""

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from registry.settings import read_settings
from tests.tokens import jwk, setting

PAGE = Path("docs/settings.md").read_text(encoding="utf-8")
_COLUMNS = 6
_CODE = re.compile(r"`(.*?)`")


class Row(NamedTuple):
    """A row of the page's tables, without the backquotes of code."""

    name: str
    kind: str  # var or secret
    default: str | None  # None: no default
    example: str
    wrong: str | None  # None: no value is wrong
    sentence: str


def _set(name: str, value: str | None) -> Callable[[str], str | None]:
    """A reader of variables in which only one setting is set."""
    return lambda asked: value if asked == name else None


def _rows() -> Iterator[Row]:
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")]
        if len(cells) != _COLUMNS or not cells[0].startswith("`"):
            continue
        name, kind, default, example, wrong, sentence = cells
        code = _CODE.match
        value, bad = code(default), code(wrong)
        shown = code(example)
        yield Row(
            name.strip("`"),
            kind,
            value[1] if value else None,
            shown[1] if shown and name != "`JWT_REGISTRY_TOKENS_PUBLIC_KEY`" else setting(jwk("ES256")),
            bad[1] if bad else None,
            sentence,
        )


ROWS = {row.name: row for row in _rows()}
EXAMPLES = {name: row.example for name, row in ROWS.items()}


def test_the_page_has_every_setting() -> None:
    """The code reads exactly the settings of the page."""
    asked: set[str] = set()

    def variable(name: str) -> None:
        asked.add(name)

    read_settings(variable)
    assert set(ROWS) == asked


def test_examples_are_right(capsys: pytest.CaptureFixture[str]) -> None:
    """All examples together are valid, and each one has an effect."""
    everything = read_settings(EXAMPLES.get)
    assert capsys.readouterr().out == ""
    for name in ROWS:
        assert read_settings({**EXAMPLES, name: ""}.get) != everything, name


@pytest.mark.parametrize("row", [row for row in ROWS.values() if row.default is not None], ids=lambda row: row.name)
def test_defaults(row: Row, capsys: pytest.CaptureFixture[str]) -> None:
    """Setting a default value has no effect."""
    assert read_settings(_set(row.name, row.default)) == read_settings(_set("", None))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("row", [row for row in ROWS.values() if row.wrong is not None], ids=lambda row: row.name)
def test_wrong_values(row: Row, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong value is ignored, and the log has the page's message."""
    assert read_settings(_set(row.name, row.wrong)) == read_settings(_set("", None))
    told = json.loads(capsys.readouterr().out)
    assert (told["setting"], told["help"]) == (row.name, row.sentence)


def test_the_example_configuration_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    """wrangler.toml.example has every var, and its values are accepted as they stand.

    That each line is right where it stands is tests/workerd/deploy.test.mjs.
    """
    text = Path("wrangler.toml.example").read_text(encoding="utf-8")
    commented = re.sub(r"^# (?=[A-Z_0-9]+ = )", "", text, flags=re.MULTILINE)
    values = tomllib.loads(commented)["env"]["production"]["vars"]
    assert set(values) == {row.name for row in ROWS.values() if row.kind == "var"}
    read_settings(values.get)
    assert capsys.readouterr().out == ""
