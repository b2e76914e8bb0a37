"""Globs and tables of permissions: `registry.access.permissions`."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.access.permissions import (
    NOTHING,
    Permissions,
    allow,
    parse_glob,
    parse_permissions,
    parse_repository_glob,
)
from registry.spec.endpoints import EVERYTHING, Access

PULL, PUSH = Access.PULL, Access.PUSH


@pytest.mark.parametrize(
    ("glob", "matching", "others"),
    [
        ("**", ["a", "a/b", "a/b/c"], []),
        ("*", ["a", "a-b"], ["a/b"]),
        ("team/*", ["team/a"], ["team", "team/a/b", "teams/a", "other/a"]),
        ("team/**", ["team/a", "team/a/b"], ["team", "teams/a"]),
        ("**/app", ["a/app", "a/b/app"], ["app", "a/apps"]),
        ("a/**/z", ["a/b/z", "a/b/c/z"], ["a/z"]),
        ("team/app-*", ["team/app-", "team/app-1"], ["team/app", "team/app-1/x"]),
        ("a*c/x", ["ac/x", "abc/x"], ["a/c/x"]),
    ],
)
def test_globs(glob: str, matching: list[str], others: list[str]) -> None:
    """`*` matches within a segment; `**` matches one or more whole segments."""
    parsed = parse_glob(glob)
    assert [name for name in matching + others if parsed.matches(name)] == matching


@pytest.mark.parametrize(
    "glob", ["", None, 3, "Team/*", "a//b", "/a", "a/", "a**", "**a/b", "**/**/**", "_a", "a b", "[ab]"]
)
def test_wrong_globs(glob: object) -> None:
    """A glob that can match no repository name is refused."""
    with pytest.raises(ValueError, match="glob"):
        parse_repository_glob(glob)


def test_only_two_wildcards_exist() -> None:
    """The other wildcards of fnmatch are literal characters, which claims of identity tokens may contain."""
    assert parse_glob("a?[b]").matches("a?[b]")
    assert not parse_glob("a?").matches("ab")
    assert not parse_glob("[ab]").matches("a")


@pytest.mark.parametrize(
    ("table", "allowed"),
    [
        ({"**": ["pull"]}, {PULL}),
        ({"**": ["pull"], "team/**": ["push"]}, {PUSH}),
        ({"team/**": ["pull", "push"], "team/app": []}, set()),
        ({"team/*": ["push"], "team/**": ["pull"]}, {PUSH}),
        ({"*/app": ["pull", "push"], "tea*/*": ["pull"]}, {PULL, PUSH}),
        ({"team/a*": ["pull", "push"], "team/*p": ["pull"]}, {PULL}),
        ({"other/**": ["pull"]}, set()),
    ],
)
def test_the_longest_match_wins(table: dict[str, list[str]], allowed: set[Access]) -> None:
    """More literal characters win, then fewer stars. Equally specific globs allow only what both allow."""
    assert parse_permissions(table).on("team/app") == allowed


@pytest.mark.parametrize(
    "value", [None, [], {}, {"a": "pull"}, {"a": ["Pull"]}, {"a": [1]}, {"a": [["pull"]]}, {"A": ["pull"]}, {"a": None}]
)
def test_wrong_permissions(value: object) -> None:
    """Any wrong value raises ValueError with a sentence."""
    with pytest.raises(ValueError, match=r"glob|allowed"):
        parse_permissions(value)


def test_tables_add_up() -> None:
    """An action is allowed if any table allows it, even if another table does not."""
    both = parse_permissions({"**": ["pull"], "secret/**": []}) | allow({PUSH}, "secret/*")
    assert both.on("secret/a") == {PUSH}
    assert both.on("open") == {PULL}
    assert both.anywhere() == {PULL, PUSH}


def test_everywhere_is_without_exception() -> None:
    """An action that a table does not allow on some repository is not allowed everywhere."""
    assert allow(EVERYTHING, "**").everywhere() == EVERYTHING
    assert parse_permissions({"**": ["pull", "delete"], "a/**": ["pull"]}).everywhere() == {PULL}
    assert allow(EVERYTHING, "*", "a/**").everywhere() == NOTHING
    assert Permissions().everywhere() == NOTHING


SEGMENT = st.text("ab*", min_size=1, max_size=3).filter(lambda text: "**" not in text)
GLOB = st.lists(st.one_of(SEGMENT, st.just("**")), min_size=1, max_size=4).map("/".join)
NAME = st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=4).map("/".join)


@given(GLOB.filter(lambda glob: glob.split("/").count("**") < 3), NAME)
def test_folders_of_repositories_that_may_be_pulled(glob: str, name: str) -> None:
    """The catalogue's walk may enter every folder above a repository that may be pulled."""
    permissions = allow({PULL}, parse_glob(glob).text)
    if permissions.on(name):
        segments = name.split("/")
        assert all(permissions.may_pull_below("/".join(segments[:depth])) for depth in range(len(segments) + 1))


@given(GLOB.filter(lambda glob: glob.split("/").count("**") < 3), NAME)
def test_a_token_carries_permissions(glob: str, name: str) -> None:
    """Permissions that are encoded as JSON and decoded again allow the same."""
    permissions = allow({PULL}, glob) | allow({PUSH}, "a")
    (first, second) = json.loads(json.dumps(permissions.as_json()))
    assert (parse_permissions(first) | parse_permissions(second)).on(name) == permissions.on(name)
