"""docs/clients.md: what is done with which client, and what is not, and why."""

from .target import ROOT
from .toolbox import TOOLS
from .tools import ACTIONS, Tool

PAGE = "docs/clients.md"
_HEAD = """# Clients

What `make clients` does with each client against the local registry, in real workerd. Without the client it is checked
that the registry has exactly the bytes that were pushed, and that what is pulled is the same. All this happens with
Basic credentials; pushing and pulling also where the registry sends clients to its token endpoint. docker, podman and
skopeo log in with a password, a stretched one, a signed token and the identity token of a CI job, and pull anonymously.

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
    """A pinned version where the client is built from source."""
    for name in ("go-tools.txt", "go-clients.txt"):
        for line in (ROOT / "tests/clients" / name).read_text().splitlines():
            module, _, version = line.partition("@")
            if module.startswith(tool.source):
                return version
    return tool.source
