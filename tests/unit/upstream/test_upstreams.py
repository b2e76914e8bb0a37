"""REGISTRIES_JSON: the format that serverless-registry documents, the added members, and invalid values."""

import json
from typing import Any

import pytest

from registry.settings import read_settings
from registry.spec.names import RepositoryName
from registry.upstream.upstreams import Auth, Upstream, parse_upstreams

SECRETS = {"REGISTRY_TOKEN": "s3cret\n", "EMPTY": "", "GCR": "eyJ0\neXBl\n"}


def parse(*entries: Any) -> tuple[Upstream, ...]:
    """Parse the setting."""
    return parse_upstreams(json.dumps(entries), SECRETS.get)


def one(**entry: Any) -> Upstream:
    """Parse one entry."""
    (upstream,) = parse({"registry": "https://registry.example.com", **entry})
    return upstream


def test_what_serverless_registry_documents() -> None:
    """The examples of serverless-registry's README, verbatim: a registry with a token, and Docker Hub anonymously."""
    text = (
        '[{ "registry": "https://url-to-other-registry", "password_env": "REGISTRY_TOKEN", '
        '"username": "username-to-use" }]'
    )
    (other,) = parse_upstreams(text, SECRETS.get)
    assert (other.origin, other.username, other.password) == (
        "https://url-to-other-registry",
        "username-to-use",
        "s3cret",  # `echo $TOKEN | wrangler secret put`
    )
    (hub,) = parse_upstreams('[{ "registry": "https://index.docker.io/" }]', SECRETS.get)
    assert (hub.origin, hub.username) == ("https://registry-1.docker.io", "")
    (local,) = parse({"registry": "http://localhost:9999", "password_env": "REGISTRY_TOKEN", "username": "hello"})
    assert local.host == "localhost:9999"
    # `cat key.json | base64 | wrangler secret put`: line ends within the secret are part of it.
    (gcr,) = parse({"registry": "https://gcr.io/project", "password_env": "GCR", "username": "_json_key_base64"})
    assert gcr.password == "eyJ0\neXBl"
    assert gcr.name_there(RepositoryName("app")) == "project/app"


@pytest.mark.parametrize(
    "url",
    ["https://index.docker.io/", "https://index.docker.io/v1/", "https://docker.io", "https://registry-1.docker.io"],
)
def test_docker_hub(url: str) -> None:
    """Docker Hub is recognized by each of its names; its official images are below library/."""
    (hub,) = parse({"registry": url, "prefix": "hub/"})
    assert hub.name_there(RepositoryName("hub/alpine")) == "library/alpine"
    assert hub.name_there(RepositoryName("hub/grafana/grafana")) == "grafana/grafana"
    assert hub.name_there(RepositoryName("alpine")) is None
    assert hub.name_there(RepositoryName("hub")) is None


def test_defaults() -> None:
    """The members that serverless-registry does not have are optional."""
    upstream = one()
    assert upstream.auth is Auth.CHALLENGE
    assert (upstream.revalidate, upstream.serve_stale, upstream.timeout) == (300, True, 30)
    assert (upstream.prefix, upstream.folder, upstream.include, upstream.exclude) == ("", "", (), ())
    assert upstream.name_there(RepositoryName("any/thing")) == "any/thing"


def test_include_and_exclude() -> None:
    """`include` and `exclude` are globs of the upstream's repository names."""
    upstream = one(prefix="mirror", include=["team/**", "base"], exclude=["team/secret"])
    for name, there in {
        "mirror/team/app": "team/app",
        "mirror/base": "base",
        "mirror/team/secret": None,
        "mirror/other": None,
        "team/app": None,
    }.items():
        assert upstream.name_there(RepositoryName(name)) == there


def test_names_that_become_too_long() -> None:
    """The upstream is not asked if the name would be invalid there."""
    assert one(registry="https://a.example/very/long").name_there(RepositoryName("a" * 250)) is None


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, 'at least "registry"'),
        ("https://registry.example.com", 'at least "registry"'),
        ({"registry": "https://r.example", "user": "me"}, "there is no 'user'"),
        ({"registry": "registry.example.com"}, "https URL"),
        ({"registry": "http://registry.example.com"}, "https URL"),
        ({"registry": "https://me:secret@registry.example.com"}, "https URL"),
        ({"registry": "https://r.example?x"}, "https URL"),
        ({"registry": 5}, "https URL"),
        ({"registry": "https://r.example/UPPER"}, "the path of registry"),
        ({"registry": "https://r.example", "username": "me"}, "set both"),
        ({"registry": "https://r.example", "password_env": "REGISTRY_TOKEN"}, "set both"),
        ({"registry": "https://r.example", "username": "me", "password_env": "NOBODY"}, "secret that is set"),
        ({"registry": "https://r.example", "token_server": "http://a.example"}, "token_server must be the https"),
        ({"registry": "https://r.example", "token_server": "https://a.example/x"}, "token_server must be the https"),
        ({"registry": "https://r.example", "pushed_repositories": "yes"}, "pushed_repositories must be true or"),
        ({"registry": "https://r.example", "username": "me", "password_env": "EMPTY"}, "secret that is set"),
        ({"registry": "https://r.example", "username": 1, "password_env": "x"}, "must be strings"),
        ({"registry": "https://r.example", "prefix": "Hub"}, "prefix must be"),
        ({"registry": "https://r.example", "prefix": "/hub"}, "prefix must be"),
        ({"registry": "https://r.example", "prefix": 1}, "prefix must be"),
        ({"registry": "https://r.example", "include": "team/**"}, "include must be a list"),
        ({"registry": "https://r.example", "exclude": ["team//**"]}, "glob"),
        ({"registry": "https://r.example", "revalidate": 0}, "revalidate is a number"),
        ({"registry": "https://r.example", "revalidate": True}, "revalidate is a number"),
        ({"registry": "https://r.example", "timeout": 301}, "timeout is a number"),
        ({"registry": "https://r.example", "serve_stale": "yes"}, "serve_stale must be"),
        ({"registry": "https://r.example", "auth": "digest"}, "auth must be one of challenge, basic, ecr"),
        ({"registry": "https://r.example", "auth": "basic"}, "needs username"),
        ({"registry": "https://r.example", "auth": "ecr", "username": "a", "password_env": "GCR"}, "dkr.ecr"),
    ],
)
def test_what_makes_no_sense(entry: Any, message: str) -> None:
    """The message names the invalid entry and what is wrong with it."""
    with pytest.raises(ValueError, match="registry 2: ") as error:
        parse({"registry": "https://fine.example"}, entry)
    assert message in str(error.value)


def test_twice() -> None:
    """Two entries of one registry must be for different names."""
    parse({"registry": "https://r.example"}, {"registry": "https://r.example", "prefix": "r"})
    with pytest.raises(ValueError, match="there twice"):
        parse({"registry": "https://r.example"}, {"registry": "https://r.example/"})


def test_a_wrong_setting_asks_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    """An invalid setting is ignored as a whole; the log says why, without a secret."""
    variables = {"REGISTRIES_JSON": '[{"registry": "https://a:hidden@r.example"}]'}
    assert read_settings(variables.get).upstreams == ()
    line = json.loads(capsys.readouterr().out)
    assert (line["event"], line["setting"]) == ("setting-ignored", "REGISTRIES_JSON")
    assert "hidden" not in line["help"]


def test_a_password_in_the_wrong_place_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """The log does not repeat a password that somebody wrote into password_env or into an origin."""
    entry = {"registry": "https://r.example", "username": "me", "password_env": "hunter2-s3cret"}
    read_settings(
        {"REGISTRIES_JSON": json.dumps([entry]), "CORS_ORIGINS": "https://me:hunter2-s3cret@ui.example/x"}.get
    )
    printed = capsys.readouterr().out
    assert printed.count("setting-ignored") == 2
    assert "hunter2" not in printed
