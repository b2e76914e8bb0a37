"""docs/clients.md: what is done with which client, and what is not, and why."""

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

What `make clients` does with each client against the local registry, in real workerd. Without the client it is checked
that the registry has exactly the bytes that were pushed, and that what is pulled is the same. All this happens with
Basic credentials; pushing and pulling also where the registry sends clients to its token endpoint. docker, podman and
skopeo log in with a password, a stretched one, a signed token and the identity token of a CI job, and pull anonymously.
What was reported of other registries is tried with the client itself (`tests/clients/test_reports.py`): BuildKit's
cache as an index of layers, cosign's signatures behind many referrers and through pull fallback, and layers in
zstd:chunked, of which containers/image pulls the parts that it does not have.

Clients that take more than a minute to build are there with `make clients NEWEST=1`, which CI runs once a night.

A number leads to the reason why a client does not do something.
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
