"""Rules about the layout of the code."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
MODULES = sorted(SOURCE.rglob("*.py"))


def imports_of(module: Path) -> Iterator[str]:
    """The top-level packages that a module imports."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports(module: Path) -> None:
    """The core imports only the standard library, PyJWT and itself; only entry and adapter import the runtime."""
    allowed = {*sys.stdlib_module_names, "jwt", "registry"}
    if module.name == "entry.py" or "cloudflare" in module.parts:
        allowed |= {"js", "pyodide", "workers"}
    assert set(imports_of(module)) <= allowed


# The packages of `registry`, lowest first: each may import those before it. CONTRIBUTING.md draws them.
PACKAGES = (
    *("spec", "setting_lists", "telemetry", "ports", "storage", "access", "content", "uploads", "upstream", "upkeep"),
    *("settings", "registry", "api", "cloudflare"),
)


def package_of(dotted: str) -> int:
    """The index in PACKAGES of a module, given by its dotted name below `registry`."""
    return PACKAGES.index(dotted.partition(".")[0])


@pytest.mark.parametrize(
    "module", sorted(SOURCE.rglob("registry/**/*.py")), ids=lambda path: str(path.relative_to(SOURCE))
)
def test_imports_run_downwards(module: Path) -> None:
    """A module imports only from its own package and from lower ones."""
    here = ".".join(module.relative_to(SOURCE / "registry").with_suffix("").parts)
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("registry"):
            below = (node.module or "").partition(".")[2]
            for name in [below] if below else [alias.name for alias in node.names]:
                assert package_of(name) <= package_of(here), f"{here} imports {name}"
    assert here != "__init__" or not ast.parse(module.read_text()).body[1:], (
        "the __init__ of a package has only a docstring"
    )


def test_packages_are_drawn() -> None:
    """CONTRIBUTING.md names every package, in this order from the bottom."""
    (picture,) = re.findall(r"```\n(entry\.py.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    drawn = re.findall(r"^([a-z_]+)(?:\.py|/)", picture, re.MULTILINE)
    assert tuple(reversed(drawn)) == (*PACKAGES, "entry")


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_runs_at_import(module: Path) -> None:
    """The top level has no I/O, randomness, time or JavaScript object, since Workers snapshot it at deploy."""
    forbidden = re.compile(r"\b(js\.|to_js|create_proxy|time\.time|secrets\.|random\.|uuid4|urandom|open\()")
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.Expr) and not (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            assert not forbidden.search(ast.unparse(node)), ast.unparse(node)


def test_what_is_public() -> None:
    """Default has no further public method, since each one can be called by RPC from outside."""
    tree = ast.parse((SOURCE / "entry.py").read_text())
    (default,) = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    methods = [node.name for node in default.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert sorted(methods) == ["fetch", "scheduled"]


def test_every_setting_is_documented() -> None:
    """Each variable that `registry.settings` reads is in wrangler.toml.example and in docs/settings.md."""
    names = re.findall(r'variable\("([A-Z_]+)"\)', (SOURCE / "registry/settings.py").read_text())
    assert names
    for name in names:
        assert name in (ROOT / "wrangler.toml.example").read_text()
        assert f"`{name}`" in (ROOT / "docs/settings.md").read_text()


def test_every_make_target_of_the_readme_exists() -> None:
    """README.md and CONTRIBUTING.md name only existing make targets."""
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md", *(str(page.relative_to(ROOT)) for page in PAGES)):
        assert set(re.findall(r"`make ([a-z-]+)", (ROOT / page).read_text())) <= targets


README_WORDS = 900  # a stranger reads it in four minutes


def test_the_readme_is_short() -> None:
    """Words as `wc -w` counts them."""
    assert len((ROOT / "README.md").read_text().split()) <= README_WORDS


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda path: path.name)
def test_links_between_pages(page: Path) -> None:
    """A relative link leads to a file and, after #, to a heading of it."""
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}, link
