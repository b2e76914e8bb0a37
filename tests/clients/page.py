"""Renders docs/clients.md: the operations that are tested with each client, and why others are not."""

import re

from .target import ROOT
from .toolbox import TOOLS
from .tools import ACTIONS, Tool

PAGE = "docs/clients.md"
_FOLDER = ROOT / "tests/clients"
_PINS = (
    *("go-tools.txt", "go-clients.txt", "go-newest.txt", "containers-image/go.mod", "notation/go.mod"),
    *("py-constraints.txt", "npm/package.json"),
)
_HEAD = """# Clients

`make clients` runs each client against the local registry in workerd. The table shows the tested operations. The tests
verify, without the client, that the registry has exactly the bytes that were pushed, and that pulled content is
the same.

All operations are tested with Basic authentication; pushes and pulls also with Bearer tokens of the registry's token
endpoint. docker, podman and skopeo log in with a password, a password that is stored as a hash, a signed token and the
identity token of a CI job, and pull anonymously.

`tests/clients/test_reports.py` reproduces problems that users reported to other registries: BuildKit's cache as an
index of layers, cosign's signatures among many referrers and through pull fallback, and zstd:chunked layers, of which
containers/image pulls only the missing parts.

Clients that take more than a minute to build are only tested with `make clients NEWEST=1`, which CI runs every night.

A number in the table refers to the reason below why a client is not tested with an operation.
"""


def rendered() -> str:
    """The page."""
    notes: dict[str, int] = {}
    lines = [
        _HEAD,
        "| client | version | " + " | ".join(ACTIONS.values()) + " |",
        "| --- " * (len(ACTIONS) + 2) + "|",
    ]
    for tool in TOOLS:
        cells = [
            f"{notes.setdefault(tool.limits[action], len(notes) + 1)}" if action in tool.limits else "yes"
            for action in ACTIONS
        ]
        lines.append(f"| {tool.title} | {_version(tool)} | " + " | ".join(cells) + " |")
    lines += ["", *(f"{number}. {note}" for note, number in notes.items()), ""]
    return "\n".join(lines)


def _version(tool: type[Tool]) -> str:
    """A pinned version where the client is built from source, or comes from PyPI or npm."""
    name = re.escape(tool.source)
    more = ", `NEWEST=1`" if tool.is_newest else ""
    for file in _PINS:
        # As go install takes them, as in a go.mod, as pip does, and as npm.
        pattern = rf'^\s*"?{name}(?:[/\w]*@|\s+|==|": ")(v?\d[\w.+-]*)'
        pin = re.search(pattern, (_FOLDER / file).read_text(), re.MULTILINE)
        if pin is not None:
            return f"{pin[1]}{more}"
    return f"{tool.source}{more}"
