"""What ships is what was tested, and what CI runs is what was reviewed.

That a deploy ends where the vendored packages are others is tests/workerd/deploy.test.mjs.
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

# The Worker's interpreter, where a requirement depends on it.
WORKER = {"python_version": "3.14", "python_full_version": "3.14.2", "sys_platform": "emscripten", "extra": ""}

HASHED = re.compile(r"([a-z0-9-]+)==([^ \\]+)[^\\]*((?:\\\n +--hash=sha256:[0-9a-f]{64} ?)+)\n")


def text(name: str) -> str:
    """A file of the project."""
    return (ROOT / name).read_text(encoding="utf-8")


def what_ships() -> dict[str, str]:
    """Versions by name, of `[project] dependencies`: pywrangler resolves them and all that they require."""
    pins = (
        re.fullmatch(r"([a-z-]+)==([0-9.]+)", one)
        for one in tomllib.loads(text("pyproject.toml"))["project"]["dependencies"]
    )
    return {pin[1]: pin[2] for pin in pins if pin}


def jobs_of(workflow: str) -> dict[str, str]:
    """The jobs of a workflow, each as its text."""
    parts = re.split(r"^  ([a-z-]+):.*\n", workflow.partition("\njobs:\n")[2], flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def workflows() -> Iterator[str]:
    """The text of every workflow."""
    return (path.read_text(encoding="utf-8") for path in (ROOT / ".github/workflows").iterdir())


def test_what_ships_is_pinned_exactly() -> None:
    """Each dependency of the Worker has one version, the SDK too, and constraints.txt has its hashes."""
    ships = what_ships()
    assert len(ships) == len(tomllib.loads(text("pyproject.toml"))["project"]["dependencies"])
    assert "workers-runtime-sdk" in ships
    tested = {name: version for name, version, _ in HASHED.findall(text("constraints.txt"))}
    assert ships.items() <= tested.items()


def test_what_ships_requires_nothing_else() -> None:
    """No package comes along that has no pin of its own."""
    for name in what_ships():
        required = map(Requirement, importlib.metadata.requires(name) or [])
        assert {one.name for one in required if one.marker is None or one.marker.evaluate(WORKER)} <= set(what_ships())


def test_what_is_vendored_is_what_ships() -> None:
    """`make vendor` takes the same packages, and vendored.sha256 has the files of these versions."""
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
    """Every line is a version with its hashes: no index, no link, no file."""
    assert HASHED.sub("", text(name)) == ""


def test_npm_is_given_hashes_and_no_address() -> None:
    """Every package of package-lock.json has a hash; none says where it came from."""
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
    """A tag of another's repository can move."""
    for workflow in workflows():
        for action in re.findall(r"uses:.*", workflow):
            assert re.fullmatch(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)


def test_a_pull_request_gets_no_privilege() -> None:
    """The code of a pull request is a stranger's: no privileged container, no token that writes or stays behind."""
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
    """What `.ci/run` does without arguments is divided among the jobs."""
    (parts,) = re.findall(r"^ALL=\((.+)\)$", text(".ci/run"), re.MULTILINE)
    (workflow,) = workflows()
    named = re.findall(r"\.ci/run (.+)$", workflow, re.MULTILINE)
    assert sorted(" ".join(named).split()) == sorted(parts.split())
