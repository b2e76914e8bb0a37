"""Lists of tags (end-8) and of repositories (the catalogue)."""

import json
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.access.permissions import parse_permissions
from registry.api.sealed_cursors import is_sealed, seal, unseal
from registry.ports.storage import NO_ATTRIBUTES
from registry.settings import read_settings
from registry.spec.endpoints import Access
from tests.fakes.client import VARIABLES, FakeRegistry, digest_of
from tests.images import push_image
from tests.unit.access.test_authenticator import hashed

NAME = "team/app"


def seed(registry: FakeRegistry, references: list[str]) -> None:
    """Seed manifests. Listings use only their keys, and whether they are empty."""
    for reference in references:
        registry.bucket.seed(f"{NAME}/manifests/{reference}", b"{}", NO_ATTRIBUTES, None)


async def tags(registry: FakeRegistry, query: str = "") -> tuple[list[str], str | None]:
    """Return a page of tags, and the URL in its Link."""
    answer = await registry.call("GET", f"/v2/{NAME}/tags/list{query}")
    assert answer.status == 200, answer
    document: dict[str, Any] = json.loads(answer.body)
    assert document["name"] == NAME
    link = answer.headers.get("Link")
    if link is None:
        return document["tags"], None
    assert link.startswith(f"</v2/{NAME}/tags/list?")
    assert link.endswith('>; rel="next"')
    return document["tags"], link[1 : link.index(">")].partition("/tags/list")[2]


async def test_tags_without_digests(registry: FakeRegistry) -> None:
    """Tags are in byte order, before, between (cosign's) and after the digests, which are left out."""
    await push_image(registry, NAME, "latest", [b"1"])
    await push_image(registry, NAME, "v1", [b"2"])
    await push_image(registry, NAME, "1.0", [b"3"])
    seed(registry, ["sha256", "sha256-abc.sig", "sha512-abc.sig", "shaz", "Z", digest_of(b"", "sha512"), "blake3:00"])
    found, link = await tags(registry)
    assert found == ["1.0", "Z", "latest", "sha256", "sha256-abc.sig", "sha512-abc.sig", "shaz", "v1"]
    assert link is None


async def test_a_repository_that_is_named_like_a_folder(registry: FakeRegistry) -> None:
    """Its tags and blobs do not show up in its parent."""
    for name in (NAME, f"{NAME}/manifests", f"{NAME}/manifests/a"):
        await push_image(registry, name, name.replace("/", "-"), [b"layer"])
    answer = await registry.call("GET", f"/v2/{NAME}/tags/list")
    assert json.loads(answer.body)["tags"] == [NAME.replace("/", "-")]


async def test_pages(registry: FakeRegistry) -> None:
    """n, last and Link; n=0 "MUST return an empty list, and MUST NOT include a Link header"."""
    everything = sorted(f"t{number}" for number in range(25))
    seed(registry, everything)
    for size in (1, 7, 24, 25, 26):
        found, link = await tags(registry, f"?n={size}")
        assert found == everything[:size]
        while link is not None:
            page, link = await tags(registry, link)
            assert page
            found += page
        assert found == everything
    assert await tags(registry, "?n=0") == ([], None)
    assert await tags(registry, "?last=t8") == (["t9"], None)
    assert await tags(registry, "?last=zzz") == ([], None)
    assert (await tags(registry, "?n=2&last=t1"))[0] == ["t10", "t11"]


async def test_an_unknown_repository(registry: FakeRegistry) -> None:
    """404 NAME_UNKNOWN."""
    for query in ("", "?n=0", "?n=5&last=x"):
        answer = await registry.call("GET", f"/v2/{NAME}/tags/list{query}")
        assert (answer.status, answer.codes) == (404, ["NAME_UNKNOWN"])


async def test_a_repository_without_tags(registry: FakeRegistry) -> None:
    """Spec: the list of tags MAY be empty."""
    seed(registry, [digest_of(b"")])
    assert await tags(registry) == ([], None)
    assert await tags(registry, "?n=0") == ([], None)


@pytest.mark.parametrize("tag", ["latest", "v1"])
async def test_one_tag_among_ten_thousand_digests(registry: FakeRegistry, tag: str) -> None:
    """Budget `tags-1-of-10000`: 3 Class A operations, for any number of digests."""
    seed(registry, [digest_of(str(number).encode()) for number in range(10_000)] + [tag])
    assert await tags(registry) == ([tag], None)
    assert registry.bucket.usage.class_a <= 3


@given(st.sets(st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,5}", fullmatch=True), min_size=1), st.integers(1, 5))
async def test_any_tags_in_pages_of_any_size(names: set[str], size: int) -> None:
    """The pages have every tag once, in order, among digests of both algorithms."""
    registry = FakeRegistry()
    seed(registry, [*names, digest_of(b"1"), digest_of(b"2"), digest_of(b"", "sha512")])
    found, link = await tags(registry, f"?n={size}")
    while link is not None:
        page, link = await tags(registry, link)
        found += page
    assert found == sorted(names)


# ---------------------------------------------------------------------- the catalogue
async def catalogue(
    registry: FakeRegistry, query: str = "", user: tuple[str, str] = ("hello", "world"), budget: int = 50
) -> tuple[list[str], str | None]:
    """Return a page of names, and the URL in its Link."""
    answer = await registry.call("GET", f"/v2/_catalog{query}", user=user, budget=budget)
    assert answer.status == 200, answer
    link = answer.headers.get("Link")
    rest = None if link is None else link[1 : link.index(">")].partition("/_catalog")[2]
    return json.loads(answer.body)["repositories"], rest


async def whole_catalogue(registry: FakeRegistry, query: str = "", budget: int = 50) -> list[str]:
    """Return all pages, each within so many R2 calls. No Link may lead to its own page."""
    found, link = await catalogue(registry, query, budget=budget)
    while link is not None:
        page, following = await catalogue(registry, link, budget=budget)
        assert following != link
        found, link = found + page, following
    return found


def seed_repositories(registry: FakeRegistry, names: list[str]) -> None:
    """Seed repositories with a tag and a blob each."""
    for name in names:
        for key in (f"{name}/manifests/1", f"{name}/blobs/{digest_of(b'')}"):
            registry.bucket.seed(key, b"", NO_ATTRIBUTES, None)


async def test_the_catalogue(registry: FakeRegistry) -> None:
    """Nested repositories are in key order. Our own keys are no repository. n=0 is an empty list."""
    await registry.push_blob("only/blobs", b"no manifest")
    names = ["a", "a-b", "a/b", "a/b/c", "library/app", "z"]
    seed_repositories(registry, names)
    registry.bucket.seed("_data/x/manifests/1", b"", NO_ATTRIBUTES, None)
    in_order = sorted(names, key=lambda name: name + "/")
    assert await catalogue(registry) == (in_order, None)
    for size in (1, 2, 5, 6, 7):
        assert await whole_catalogue(registry, f"?n={size}") == in_order
    assert await catalogue(registry, "?n=0") == ([], None)
    assert (await catalogue(registry, "?n=1&last=a/b"))[0] == ["a/b/c"]


async def test_a_large_catalogue(registry: FakeRegistry) -> None:
    """Budget `catalog-100`: 105 Class A operations over all pages, at most 50 a page, among many other folders."""
    names = [f"r{number:03}" for number in range(100)]
    seed_repositories(registry, names)
    assert await whole_catalogue(registry) == names
    assert registry.bucket.usage.class_a <= 105
    for number in range(100):
        registry.bucket.seed(f"a{number}/b/c/blobs/{digest_of(b'')}", b"", NO_ATTRIBUTES, None)
    assert await whole_catalogue(registry) == names


path = st.lists(st.sampled_from(["a", "b-c", "b", "b.c"]), min_size=1, max_size=4).map("/".join)


@given(st.sets(path, min_size=1), st.integers(1, 4))
async def test_any_repositories_in_pages_of_any_size(names: set[str], size: int) -> None:
    """The pages have every name once."""
    registry = FakeRegistry()
    seed_repositories(registry, sorted(names))
    assert await whole_catalogue(registry, f"?n={size}") == sorted(names, key=lambda name: name + "/")


def restricted(table: dict[str, list[str]]) -> FakeRegistry:
    """Return a registry with an account for some repositories."""
    accounts = [{"name": "some", "secret": hashed("secret"), "permissions": table}]
    variables = {**VARIABLES, "ACCOUNTS_JSON": json.dumps(accounts)}
    return FakeRegistry(settings=read_settings(variables.get))


SOME = ("some", "secret")
glob = st.sampled_from(["**", "*", "a/**", "a/*", "b", "**/b", "a/b-c/**", "b.c/*/a"])


@given(
    st.sets(path, min_size=1),
    st.dictionaries(glob, st.sampled_from([["pull"], ["push"], []]), min_size=1),
    st.integers(1, 4),
    st.integers(8, 30),  # calls: a repository takes up to seven
    st.integers(1, 10),  # keys in a page of R2's listing
)
async def test_the_catalogue_shows_what_may_be_pulled(
    names: set[str], table: dict[str, list[str]], size: int, calls: int, keys: int
) -> None:
    """Each allowed name is listed once, and no Link reveals another name, for any page size."""
    registry = restricted(table)
    registry.bucket.page = keys
    registry.settings = replace(registry.settings, r2_calls=calls)
    registry.restart()
    seed_repositories(registry, sorted(names))
    allowed = parse_permissions(table)
    visible = [name for name in sorted(names, key=lambda name: name + "/") if Access.PULL in allowed.on(name)]
    if Access.PULL not in allowed.anywhere():
        assert (await registry.call("GET", "/v2/_catalog", user=SOME)).status == 403
        return
    found, link = await catalogue(registry, f"?n={size}", SOME)
    while link is not None:
        last = parse_qs(link.removeprefix("?"))["last"][0]
        assert last.startswith("~") or Access.PULL in allowed.on(last)
        page, following = await catalogue(registry, link, SOME)
        assert following != link
        found, link = found + page, following
    assert found == visible


async def test_the_catalogue_of_a_team_costs_what_the_team_has() -> None:
    """Folders that the account may not pull from are not listed."""
    registry = restricted({"team/*": ["pull"], "other/**": ["push"]})
    seed_repositories(registry, ["team/a", "team/b", *(f"other/{number}" for number in range(100))])
    assert await catalogue(registry, user=SOME) == (["team/a", "team/b"], None)
    assert registry.bucket.usage.class_a <= 4


@pytest.mark.parametrize("keys", [1, 2, 1000])
async def test_deep_names_do_not_stop_the_catalogue(registry: FakeRegistry, keys: int) -> None:
    """The deepest possible name is listed like any other."""
    registry.bucket.page = keys
    names = ["a", "/".join("b" * 20), "/".join("b" * 128), "c"]
    seed_repositories(registry, names)
    registry.settings = replace(registry.settings, r2_calls=100)
    registry.restart()
    assert await whole_catalogue(registry, budget=110) == names


async def test_a_repository_beside_a_thousand_others(registry: FakeRegistry) -> None:
    """It is found, whatever keys sort before its manifests, and however large the others are."""
    names = ["a", *(f"a/b{number:04}" for number in range(1_500)), "b"]
    seed_repositories(registry, names)
    assert await whole_catalogue(registry, "?n=1000") == names
    for number in range(1_100):
        registry.bucket.seed(f"a/b0000/blobs/{digest_of(str(number).encode())}", b"", NO_ATTRIBUTES, None)
        registry.bucket.seed(f"b/manifests/{number}", b"", NO_ATTRIBUTES, None)
    assert await whole_catalogue(registry, "?n=1000") == names


async def test_many_large_repositories(registry: FakeRegistry) -> None:
    """Each costs little more than one R2 call."""
    registry.bucket.page = 10
    names = [f"r{number:03}" for number in range(100)]
    seed_repositories(registry, names)
    for name in names:
        for blob in range(20):
            registry.bucket.seed(f"{name}/blobs/{digest_of(str(blob).encode())}", b"", NO_ATTRIBUTES, None)
    registry.bucket.reset()
    assert await whole_catalogue(registry, budget=200) == names
    assert registry.bucket.usage.class_a <= 130


async def test_what_is_not_ours_does_not_stop_the_catalogue(registry: FakeRegistry) -> None:
    """Large foreign folders, invalid names and unknown keys do not stop the listing."""
    seed_repositories(registry, ["a", "a/b", "z"])
    for number in range(3_000):
        registry.bucket.seed(f"foreign/{number}", b"", NO_ATTRIBUTES, None)
        registry.bucket.seed(f"Foreign/{number}/x", b"", NO_ATTRIBUTES, None)
    for key in (
        "a/",
        "/a",
        "//",
        "a//b/manifests/x",
        "a/manifests/",
        "é/manifests/x",
        "\U0010ffff/x",
        "a/_x/manifests/y",
    ):
        registry.bucket.seed(key, b"", NO_ATTRIBUTES, None)
    assert await whole_catalogue(registry) == ["a", "a/b", "z"]


async def test_made_up_cursors(registry: FakeRegistry) -> None:
    """A forged cursor is 400, and reveals no names."""
    for last in ("~", "~00", "~" + "00" * 40, "~zz", "~é"):
        assert (await registry.call("GET", f"/v2/_catalog?last={last}")).status == 400


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=300), st.binary(min_size=1))
def test_sealed_text(text: str, key: bytes) -> None:
    """Only the right key opens a sealed text, and any change to it is detected."""
    sealed = seal(key, text)
    assert is_sealed(sealed)
    assert unseal(key, sealed) == text
    assert unseal(key + b"x", sealed) is None
    changed = bytearray.fromhex(sealed[1:])
    changed[len(text) % len(changed)] ^= 1
    assert unseal(key, "~" + changed.hex()) is None


def test_the_length_of_a_cursor_tells_nothing() -> None:
    """The length of a cursor does not reveal the length of the hidden name."""
    assert len({len(seal(b"key", "x" * length)) for length in range(1, 256)}) == 1
