"""Every client with every action it has; docs/clients.md is what comes out."""

import os
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from .page import PAGE, rendered
from .target import ROOT, Registry
from .toolbox import TOOLS
from .tools import ACTIONS, Lab, Tool

MakeTool = Callable[[type[Tool], Path], Tool]
BUILT = [tool for tool in TOOLS if os.environ.get("NEWEST") or not tool.is_newest]
CELLS = [(tool, action) for tool in BUILT for action in ACTIONS if action not in tool.limits]


@pytest.mark.parametrize(("kind", "action"), CELLS, ids=[f"{tool.__name__}-{action}" for tool, action in CELLS])
def test_cell(kind: type[Tool], action: str, lab: Lab, make_tool: MakeTool, request: pytest.FixtureRequest) -> None:
    """A client does something, and the registry has exactly what it should."""
    if kind.needs_tokens:
        lab = replace(lab, registry=request.getfixturevalue("token_registry"))
    tool = make_tool(kind, lab.folder)
    if action != "login":
        tool.prepare(lab)
    getattr(tool, action)(lab)


@pytest.mark.parametrize(
    "kind", [tool for tool in BUILT if "push_and_pull" not in tool.limits], ids=lambda tool: tool.__name__
)
def test_bearer(kind: type[Tool], token_registry: Registry, folder: Path, make_tool: MakeTool) -> None:
    """Each client also pushes and pulls where it is sent to the token endpoint."""
    lab = Lab(token_registry, folder, f"bearer/{secrets.token_hex(4)}")
    tool = make_tool(kind, folder)
    tool.prepare(lab)
    tool.push_and_pull(lab)


def test_the_page_is_current() -> None:
    """docs/clients.md says what is done here and what is not, and why."""
    page = ROOT / PAGE
    if page.read_text() != rendered():
        page.write_text(rendered())
        pytest.fail(f"{PAGE} was not current: it has been written anew")
