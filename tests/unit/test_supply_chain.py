"""The shipped packages are the tested ones, and CI runs only reviewed actions.

tests/workerd/deploy.test.mjs tests that a deploy stops when the vendored packages differ.
"""

import importlib.metadata
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]

# The environment markers of the Worker's interpreter.
WORKER = {"python_version": "3.14", "python_full_version": "3.14.2", "sys_platform": "emscripten", "extra": ""}

HASHED = re.compile(r"([a-z0-9-]+)==([^ \\]+)[^\\]*((?:\\\n +--hash=sha256:[0-9a-f]{64} ?)+)\n")


def text(name: str) -> str:
    """The text of a file of the project."""
    return (ROOT / name).read_text(encoding="utf-8")


def what_ships() -> dict[str, str]:
    """The versions in `[project] dependencies`, by name: pywrangler resolves these and their requirements."""
    pins = (
        re.fullmatch(r"([a-z-]+)==([0-9.]+)", one)
        for one in tomllib.loads(text("pyproject.toml"))["project"]["dependencies"]
    )
    return {pin[1]: pin[2] for pin in pins if pin}


def jobs_of(workflow: str) -> dict[str, str]:
    """The jobs of a workflow as texts, by name."""
    parts = re.split(r"^  ([a-z-]+):.*\n", workflow.partition("\njobs:\n")[2], flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def workflows() -> Iterator[str]:
    """The text of every workflow."""
    return (path.read_text(encoding="utf-8") for path in (ROOT / ".github/workflows").iterdir())


def test_what_ships_is_pinned_exactly() -> None:
    """Each dependency of the Worker, and the SDK, has one pinned version, with hashes in constraints.txt."""
    ships = what_ships()
    assert len(ships) == len(tomllib.loads(text("pyproject.toml"))["project"]["dependencies"])
    assert "workers-runtime-sdk" in ships
    tested = {name: version for name, version, _ in HASHED.findall(text("constraints.txt"))}
    assert ships.items() <= tested.items()


def test_what_ships_requires_nothing_else() -> None:
    """Every package that a dependency requires is pinned, too."""
    for name in what_ships():
        required = map(Requirement, importlib.metadata.requires(name) or [])
        assert {one.name for one in required if one.marker is None or one.marker.evaluate(WORKER)} <= set(what_ships())


def test_what_is_vendored_is_what_ships() -> None:
    """`make vendor` installs the same packages, and vendored.sha256 lists the files of these versions."""
    (names,) = re.findall(r"ships = /\^\(([a-z|-]+)\)==/", text("Makefile"))
    assert set(names.split("|")) == set(what_ships())
    files = re.findall(r"^[0-9a-f]{64}  (\S+)$", text("vendored.sha256"), re.MULTILINE)
    assert len(files) == len(text("vendored.sha256").splitlines())
    vendored = {
        re.sub(r"-([0-9.]+)\.dist-info$", r"==\1", one.partition("/")[0]) for one in files if ".dist-info/" in one
    }
    assert vendored == {f"{name.replace('-', '_')}=={version}" for name, version in what_ships().items()}


@pytest.mark.parametrize(
    "name", ["constraints.txt", "tests/clients/go-constraints.txt", "tests/push/twine-constraints.txt"]
)
def test_pip_is_given_hashes_and_no_address(name: str) -> None:
    """Every line is a version with hashes; none is an index, a link or a file."""
    assert HASHED.sub("", text(name)) == ""


def test_npm_is_given_hashes_and_no_address() -> None:
    """Every package of package-lock.json has a hash; none has a URL."""
    packages = json.loads(text("package-lock.json"))["packages"]
    del packages[""]
    assert packages
    for name, package in packages.items():
        assert "resolved" not in package, name
        assert package["integrity"].startswith("sha512-"), name


def test_registry_push_is_ready_for_pypi() -> None:
    """Its package has its own copy of the licence, and what PyPI shows; `make package` checks the built files."""
    project = tomllib.loads(text("push/pyproject.toml"))["project"]
    assert text("push/LICENSE") == text("LICENSE")
    assert {"readme", "license", "license-files", "urls", "classifiers"} <= project.keys()
    assert "](../" not in text("push/README.md"), "a link that PyPI cannot follow"


def test_actions_are_named_by_commit() -> None:
    """Workflows name actions by commit, since the tag of another repository can move."""
    for workflow in workflows():
        for action in re.findall(r"uses:.*", workflow):
            assert re.fullmatch(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)


def test_a_pull_request_gets_no_privilege() -> None:
    """Jobs with a pull request's untrusted code have no privileged container and no writing or persistent token."""
    for workflow in workflows():
        assert "pull_request_target" not in workflow
        assert "\npermissions:\n  contents: read\n" in workflow
        assert workflow.count("permissions:") == 1
        assert workflow.count("actions/checkout@") == workflow.count("persist-credentials: false")
        assert "secrets." not in workflow
        for name, job in jobs_of(workflow).items():
            reviewed = "    if: github.event_name == 'push' || github.event_name == 'schedule'\n"
            assert "privileged" not in job or reviewed in job, name


def test_ci_runs_every_part() -> None:
    """The jobs together run everything that `.ci/run` runs without arguments."""
    (parts,) = re.findall(r"^ALL=\((.+)\)$", text(".ci/run"), re.MULTILINE)
    (workflow,) = workflows()
    named = re.findall(r"\.ci/run (.+)$", workflow, re.MULTILINE)
    assert sorted(" ".join(named).split()) == sorted(parts.split())
