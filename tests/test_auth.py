"""User names and passwords: `registry.auth`."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.auth import Accounts
from registry.errors import RegistryError
from registry.settings import Settings
from tests.fakes.client import SETTINGS, FakeRegistry, basic

PULLER = ("reader", "looks-only")


async def test_without_credentials_there_is_a_challenge(registry: FakeRegistry) -> None:
    """401 UNAUTHORIZED with a fixed realm, for every path."""
    for url in ("/v2/", "/v2/a/manifests/1", "/", "/v2/nonsense"):
        answer = await registry.call("GET", url, user=None)
        assert answer.status == 401
        assert answer.codes == ["UNAUTHORIZED"]
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="container registry", charset="UTF-8"'


@pytest.mark.parametrize(
    "user", [("hello", "wrong"), ("nobody", "world"), ("hello", ""), ("", ""), ("hello:world", "")]
)
async def test_wrong_credentials_are_refused(registry: FakeRegistry, user: tuple[str, str]) -> None:
    """The same answer for an unknown user and a wrong password."""
    answer = await registry.call("GET", "/v2/", user=user)
    assert answer.status == 401
    assert "WWW-Authenticate" in answer.headers
    assert b"wrong user name or password" in answer.body


async def test_both_accounts_come_in(registry: FakeRegistry) -> None:
    """The version check is for whoever has an account."""
    assert (await registry.call("GET", "/v2/")).status == 200
    assert (await registry.call("GET", "/v2/", user=PULLER)).status == 200


async def test_a_read_only_account_may_not_push(registry: FakeRegistry) -> None:
    """403 DENIED, not 401: asking for other credentials would not help."""
    for method, url in (
        ("POST", "/v2/a/blobs/uploads/"),
        ("PATCH", "/v2/a/blobs/uploads/x"),
        ("PUT", f"/v2/a/blobs/uploads/x?digest=sha256:{'0' * 64}"),
        ("DELETE", "/v2/a/blobs/uploads/x"),
        ("PUT", "/v2/a/manifests/1"),
        ("DELETE", "/v2/a/manifests/1"),
    ):
        answer = await registry.call(method, url, user=PULLER)
        assert (answer.status, answer.codes) == (403, ["DENIED"])
    assert (await registry.call("GET", "/v2/a/manifests/1", user=PULLER)).status == 404
    assert (await registry.call("HEAD", "/v2/a/manifests/1", user=PULLER)).status == 404


async def test_without_configuration_the_door_is_closed(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody comes in, not even with empty credentials, and the log says what is missing."""
    registry = FakeRegistry(settings=Settings())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["no-credentials-configured"]
    for user in (None, ("", ""), ("hello", "world")):
        assert (await registry.call("GET", "/v2/", user=user)).status == 401


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        (Settings(username="hello"), "PASSWORD is not set"),
        (Settings(password="s3cret"), "USERNAME is not set"),
        (Settings(readonly_username="reader"), "READONLY_PASSWORD is not set"),
        (Settings(username="a:b", password="s3cret"), "a user name cannot contain a colon"),
    ],
)
def test_half_an_account_is_none(settings: Settings, missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A name without a password must not become an account with an empty one."""
    accounts = Accounts(settings)
    printed = capsys.readouterr().out
    assert missing in printed
    assert "s3cret" not in printed
    for user in (("hello", ""), ("", "s3cret"), ("reader", ""), ("a", "b:s3cret"), ("a:b", "s3cret")):
        with pytest.raises(RegistryError):
            accounts.authenticate(basic(*user))


def test_a_password_may_contain_anything() -> None:
    """RFC 7617: only the first colon divides; the charset is UTF-8; the scheme has no case."""
    accounts = Accounts(Settings(username="jörg", password="pass:wörd ✓"))
    header = basic("jörg", "pass:wörd ✓")
    assert accounts.authenticate(header).name == "jörg"
    assert accounts.authenticate(header.replace("Basic", "bAsIc")).name == "jörg"


@given(st.one_of(st.text(), st.binary().map(lambda raw: "Basic " + base64.b64encode(raw).decode()), st.just("Basic")))
def test_mangled_headers_are_refused(header: str) -> None:
    """Whatever stands there: UNAUTHORIZED, never another exception."""
    accounts = Accounts(SETTINGS)
    with pytest.raises(RegistryError) as caught:
        accounts.authenticate(header)
    assert caught.value.problem.status == 401
