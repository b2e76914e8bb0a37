"""User names and passwords, anonymous pulls, and the log of refused requests."""

import asyncio
import base64
import hashlib
import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.access.password_guard import AT_ONCE, PER_ADDRESS, PER_NAME
from registry.ports.crypto import PBKDF2_ITERATIONS
from registry.settings import Settings, read_settings
from tests.fakes.client import VARIABLES, FakeRegistry, basic
from tests.fakes.machine import FakeCrypto

BASIC = 'Basic realm="container registry", charset="UTF-8"'


def stretched(password: str, salt: bytes = b"0123456789abcdef") -> str:
    """The hash of a password for ACCOUNTS_JSON."""
    digest = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, PBKDF2_ITERATIONS)
    salt_text, digest_text = (base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (salt, digest))
    return f"pbkdf2-sha256:{PBKDF2_ITERATIONS}:{salt_text}:{digest_text}"


def hashed(token: str) -> str:
    """The hash of a generated token for ACCOUNTS_JSON."""
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


ACCOUNTS = [
    {"name": "ci", "secret": hashed("generated"), "permissions": {"team/**": ["pull", "push"], "team/base": ["pull"]}},
    {"name": "ann", "secret": stretched("her password"), "permissions": {"**": ["pull", "push", "delete"]}},
    {"name": "bob", "secret": stretched("his password", b"another salt"), "permissions": {"**": ["pull"]}},
    {"name": "nobody", "secret": hashed("no permissions"), "permissions": {"**": []}},
]


def team(**variables: str) -> FakeRegistry:
    """A registry with ACCOUNTS, and the two accounts of VARIABLES."""
    return FakeRegistry(settings=read_settings({**VARIABLES, "ACCOUNTS_JSON": json.dumps(ACCOUNTS), **variables}.get))


async def test_without_credentials_there_is_a_challenge(registry: FakeRegistry) -> None:
    """Every path, even an invalid one, answers 401 UNAUTHORIZED with a fixed realm; but /v2/token is disabled."""
    for url in (
        "/v2/",
        "/v2/a/manifests/1",
        "/nonsense",
        "/metrics",
        "/v2/nonsense",
        "/v2/A/manifests/1",
        "/v2/%ff",
        "/v2/token",
    ):
        answer = await registry.call("GET", url, user=None)
        if url == "/v2/token":
            assert (answer.status, answer.codes) == (404, ["UNSUPPORTED"])
            continue
        assert answer.status == 401
        assert answer.codes == ["UNAUTHORIZED"]
        assert answer.headers["WWW-Authenticate"] == BASIC


@pytest.mark.parametrize(
    "user", [("hello", "wrong"), ("nobody", "world"), ("hello", ""), ("", ""), ("hello:world", ""), ("reader", "world")]
)
async def test_wrong_credentials_are_refused(registry: FakeRegistry, user: tuple[str, str]) -> None:
    """An unknown user and a wrong password get the same answer."""
    answer = await registry.call("GET", "/v2/", user=user)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == BASIC
    assert b"wrong user name or password" in answer.body


async def test_every_account_is_accepted() -> None:
    """USERNAME, READONLY_USERNAME and the accounts of ACCOUNTS_JSON all work together."""
    registry = team()
    secrets = {
        "ci": "generated",
        "ann": "her password",
        "bob": "his password",
        "hello": "world",
        "reader": "looks-only",
    }
    for user in secrets.items():
        assert (await registry.call("GET", "/v2/", user=user)).status == 200
    answer = await registry.call("GET", "/v2/", user=("nobody", "no permissions"))
    assert (answer.status, answer.codes) == (403, ["DENIED"])


@pytest.mark.parametrize(
    ("name", "status"), [("team/app", 202), ("team/a/b", 202), ("team/base", 403), ("team", 403), ("other/app", 403)]
)
async def test_an_account_has_its_repositories(name: str, status: int) -> None:
    """Other repositories are 403 DENIED, with a message that names the missing permission and the repository."""
    answer = await team().call("POST", f"/v2/{name}/blobs/uploads/", user=("ci", "generated"))
    assert answer.status == status
    if status == 403:
        assert answer.codes == ["DENIED"]
        assert f"this account may not push in {name}".encode() in answer.body


async def test_the_work_does_not_tell_who_exists() -> None:
    """A wrong password costs one PBKDF2, for an existing account of either kind and for an unknown name."""
    registry = team()
    for user in (("ann", "x"), ("bob", "her password"), ("ci", "x"), ("hello", "x"), ("stranger", "x"), ("", "")):
        before = registry.crypto.stretched
        assert (await registry.call("GET", "/v2/", user=user)).status == 401
        assert registry.crypto.stretched == before + 1


async def test_wrong_passwords_are_limited() -> None:
    """Too many get 429 with Retry-After. Repeated ones do not count; other addresses and accounts are not affected."""
    registry = team()
    registry.pause = 0.0
    statuses: dict[int, int] = {}
    for number in range(300):
        answer = await registry.call("GET", "/v2/", user=("ann", f"wrong {number}"))
        statuses[answer.status] = statuses.get(answer.status, 0) + 1
        if answer.status == 429:
            assert answer.codes == ["TOOMANYREQUESTS"]
            assert answer.headers["Retry-After"] == str(math.ceil(PER_NAME.seconds))
    assert statuses == {401: PER_NAME.burst, 429: 300 - PER_NAME.burst}
    assert registry.crypto.stretched == PER_NAME.burst
    assert (await registry.call("GET", "/v2/", user=("ann", "wrong 0"))).status == 401
    assert registry.crypto.stretched == PER_NAME.burst
    # Other accounts from the same address, the same account from another address, and after a pause from the same.
    assert (await registry.call("GET", "/v2/", user=("bob", "his password"))).status == 200
    assert (await registry.call("GET", "/v2/", user=("ci", "generated"))).status == 200
    elsewhere = {"cf-connecting-ip": "192.0.2.1"}
    assert (await registry.call("GET", "/v2/", user=("ann", "her password"), headers=elsewhere)).status == 200
    registry.restart()
    for number in range(300):
        await registry.call("GET", "/v2/", user=(f"nobody {number}", "x"))
    assert registry.crypto.stretched <= 2 * PER_NAME.burst + PER_ADDRESS.burst
    registry.clock.now += PER_ADDRESS.seconds
    assert (await registry.call("GET", "/v2/", user=("ann", "her password"))).status == 200


async def test_few_passwords_are_stretched_at_once() -> None:
    """At most AT_ONCE PBKDF2s run concurrently; a request that waits too long for its turn gets 429."""
    registry = team()
    most = 0

    class Slow(FakeCrypto):
        running = 0

        async def pbkdf2(self, password: bytes, salt: bytes) -> bytes:
            nonlocal most
            Slow.running += 1
            most = max(most, Slow.running)
            await registry.clock.sleep(2)
            Slow.running -= 1
            return await super().pbkdf2(password, salt)

    registry.pause = 0.0
    registry.crypto = Slow()
    registry.restart()
    registry.side_by_side = True
    answers = await asyncio.gather(
        *(
            registry.call("GET", "/v2/", user=(f"n{number}", "x"), headers={"cf-connecting-ip": str(number)})
            for number in range(40)
        )
    )
    assert most == AT_ONCE
    assert {answer.status for answer in answers} == {401, 429}


async def test_valid_passwords_are_cached() -> None:
    """The isolate caches valid credentials for five minutes."""
    registry = team()
    for _ in range(10):
        assert (await registry.call("GET", "/v2/", user=("ann", "her password"))).status == 200
    assert registry.crypto.stretched == 1
    registry.clock.now += 300
    assert (await registry.call("GET", "/v2/", user=("ann", "her password"))).status == 200
    assert registry.crypto.stretched == 2


async def test_the_cache_of_credentials_is_bounded() -> None:
    """A client that varies its header does not fill the isolate's memory."""
    registry = FakeRegistry()
    for number in range(2_100):
        header = basic("hello", "world").replace("Basic ", "Basic " + " " * number)
        assert (await registry.call("GET", "/v2/", user=None, headers={"authorization": header})).status == 200
    assert len(registry.registry.authenticator._remembered) <= 1_000  # noqa: SLF001


async def test_without_accounts_every_request_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """No credentials are accepted, not even empty ones, and the log says what is missing."""
    registry = FakeRegistry(settings=Settings())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["no-credentials-configured"]
    for user in (None, ("", ""), ("hello", "world")):
        assert (await registry.call("GET", "/v2/", user=user)).status == 401


@pytest.mark.parametrize(
    ("variables", "missing"),
    [
        ({"USERNAME": "hello"}, "PASSWORD is not set"),
        ({"PASSWORD": "s3cret"}, "USERNAME is not set"),
        ({"READONLY_USERNAME": "reader"}, "READONLY_PASSWORD is not set"),
        ({"USERNAME": "a:b", "PASSWORD": "s3cret"}, "no colon"),
    ],
)
async def test_incomplete_accounts_are_ignored(
    variables: dict[str, str], missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name without a password must not become an account with an empty password."""
    registry = FakeRegistry(settings=read_settings(variables.get))
    printed = capsys.readouterr().out
    assert missing in printed
    assert "s3cret" not in printed
    for user in (("hello", ""), ("", "s3cret"), ("reader", ""), ("a", "b:s3cret"), ("a:b", "s3cret")):
        assert (await registry.call("GET", "/v2/", user=user)).status == 401


def _account(**members: object) -> list[dict[str, Any]]:
    return [{"name": "x", "secret": hashed("t"), "permissions": {"**": ["pull"]}, **members}]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("{", "not JSON"),
        ("{}", "list of accounts"),
        ('["x"]', "account 1: must be an object"),
        (json.dumps(_account(password="p")), "exactly name, permissions, secret"),
        (json.dumps(_account(name="")), "user name"),
        (json.dumps(_account(name="a:b")), "user name"),
        (json.dumps(_account(name="a\nb")), "user name"),
        (json.dumps(_account(secret="t0p-s3cret")), "registry-token hash"),
        (json.dumps(_account(secret=None)), "registry-token hash"),
        (json.dumps(_account(secret="sha256:00")), "registry-token hash"),
        (json.dumps(_account(secret=stretched("p").replace("100000", "1000"))), "registry-token hash"),
        (json.dumps(_account(secret=stretched("p", b"short"))), "registry-token hash"),
        (json.dumps(_account(permissions={"**": ["admin"]})), "pull, push, delete"),
        (json.dumps(_account(permissions={"A": ["pull"]})), "can match no repository"),
        (json.dumps(_account() + _account()), "account 2: 'x' is there twice"),
    ],
)
async def test_malformed_accounts_are_ignored(value: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One mistake in ACCOUNTS_JSON disables all of its accounts, but no others. The log says what is wrong."""
    registry = FakeRegistry(settings=read_settings({**VARIABLES, "ACCOUNTS_JSON": value}.get))
    line = json.loads(capsys.readouterr().out)
    assert (line["event"], line["setting"]) == ("setting-ignored", "ACCOUNTS_JSON")
    assert sentence in line["help"]
    assert "s3cret" not in line["help"]
    assert (await registry.call("GET", "/v2/", user=("x", "t"))).status == 401
    assert (await registry.call("GET", "/v2/")).status == 200


async def test_a_password_may_contain_anything() -> None:
    """RFC 7617: the first colon ends the user name; the charset is UTF-8; the scheme is not case-sensitive."""
    registry = FakeRegistry(settings=read_settings({"USERNAME": "jörg", "PASSWORD": "pass:wörd ✓"}.get))
    header = basic("jörg", "pass:wörd ✓")
    for sent in (header, header.replace("Basic", "bAsIc"), header.replace(" ", "   ")):
        assert (await registry.call("GET", "/v2/", user=None, headers={"authorization": sent})).status == 200


MANGLED = st.one_of(
    st.text(),
    st.text().map(lambda text: f"Basic {text}"),
    st.text().map(lambda text: f"Bearer {text}"),
    st.binary().map(lambda raw: "Basic " + base64.b64encode(raw).decode()),
    st.lists(st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()), min_size=3, max_size=3).map(
        lambda segments: "Bearer " + ".".join(segments)
    ),
    st.sampled_from(
        ["", " ", "Basic", "Bearer", "Basic ", "Bearer .", "Bearer ..", "Digest a=b", "Basic " + "A" * 99_999]
    ),
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=MANGLED)
async def test_mangled_headers_are_refused(header: str, registry: FakeRegistry) -> None:
    """Any malformed Authorization header gets 401, never a 5xx, on every kind of path."""
    for url in ("/v2/", "/v2/a/manifests/1", "/v2/_catalog"):
        answer = await registry.call("GET", url, user=None, headers={"authorization": header})
        assert (answer.status, answer.codes) == (401, ["UNAUTHORIZED"])


# ------------------------------------------------------------------ anonymous
async def push(registry: FakeRegistry, name: str) -> str:
    """Push a blob to the repository `name`; return its digest."""
    return await registry.push_blob(name, b"public or not")


async def test_anonymous_pull() -> None:
    """Repositories that the globs match can be pulled without credentials and by every account; no others can."""
    registry = team(ANONYMOUS_PULL="public/**, base")
    for name, status in (("public/app", 200), ("base", 200), ("team/app", 401), ("public", 401)):
        digest = await push(registry, name)
        answer = await registry.call("GET", f"/v2/{name}/blobs/{digest}", user=None)
        assert answer.status == status
        if status == 200:
            assert answer.headers["Cache-Control"].startswith("public, ")
            for user in (("ci", "generated"), ("nobody", "no permissions")):
                answer = await registry.call("GET", f"/v2/{name}/blobs/{digest}", user=user)
                assert answer.status == 200
                assert answer.headers["Cache-Control"].startswith("private, ")


async def test_nobody_pushes_anonymously() -> None:
    """Anonymous clients only pull, even with ANONYMOUS_PULL=**; wrong credentials and /v2/ still get 401."""
    registry = FakeRegistry(settings=read_settings({"ANONYMOUS_PULL": "**"}.get))
    for method, url in (
        ("POST", "/v2/a/blobs/uploads/"),
        ("PATCH", "/v2/a/blobs/uploads/x"),
        ("PUT", f"/v2/a/blobs/uploads/x?digest=sha256:{'0' * 64}"),
        ("DELETE", "/v2/a/blobs/uploads/x"),
        ("PUT", "/v2/a/manifests/1"),
        ("DELETE", "/v2/a/manifests/1"),
        ("POST", "/v2/_migrate"),
        ("GET", "/v2/_catalog"),
        ("GET", "/v2/"),
    ):
        answer = await registry.call(method, url, user=None)
        assert (answer.status, answer.codes) == (401, ["UNAUTHORIZED"])
    assert (await registry.call("GET", "/v2/a/manifests/1", user=None)).status == 404
    assert (await registry.call("GET", "/v2/a/manifests/1", user=("hello", "world"))).status == 401


async def test_a_public_source_can_be_mounted() -> None:
    """An account that may push to a repository can mount blobs of a public repository."""
    registry = team(ANONYMOUS_PULL="public/**")
    digest = await push(registry, "public/app")
    answer = await registry.call(
        "POST", f"/v2/team/app/blobs/uploads/?mount={digest}&from=public/app", user=("ci", "generated")
    )
    assert answer.status == 201


@pytest.mark.parametrize("value", ["Public/*", "public/**,,x y/", "a**"])
async def test_malformed_globs_open_nothing(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One malformed glob disables anonymous pulls."""
    registry = FakeRegistry(settings=read_settings({**VARIABLES, "ANONYMOUS_PULL": value}.get))
    assert "ANONYMOUS_PULL" in capsys.readouterr().out
    assert (await registry.call("GET", "/v2/public/app/manifests/1", user=None)).status == 401


# ------------------------------------------------------------------ log
async def test_refusals_are_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """Each refused request is one log line with account, endpoint and reason, but no secret and no unknown name."""
    registry = team()
    capsys.readouterr()
    calls: list[tuple[tuple[str, str] | None, int, str | None]] = [
        (None, 401, None),
        (("hello", "s3cret"), 401, "hello"),
        (("ann", "s3cret"), 401, "ann"),
        (("s3cret", "s3cret"), 401, None),
        (("ci", "generated"), 403, "ci"),
    ]
    for user, status, account in calls:
        await registry.call(
            "POST", "/v2/x/blobs/uploads/?a=s3cret", user=user, headers={"cf-connecting-ip": "192.0.2.1"}
        )
        printed = capsys.readouterr().out
        assert "s3cret" not in printed
        (line,) = (json.loads(text) for text in printed.splitlines())
        told = [line[member] for member in ("status", "account", "method", "endpoint", "repository", "address")]
        assert told == [status, account, "POST", "StartUpload", "x", "192.0.2.1"]
        assert line["reason"]
    await registry.call("GET", "/v2/", headers={"cf-connecting-ip": "192.0.2.1"})
    line = json.loads(capsys.readouterr().out)
    assert "address" not in line
    assert "reason" not in line


async def test_addresses_of_one_network_and_long_names() -> None:
    """All addresses of an IPv6 /64 share one limit, and long names and addresses take little memory."""
    registry = team()
    registry.pause = 0.0
    statuses = set()
    for number in range(PER_NAME.burst + 1):
        address = {"cf-connecting-ip": f"2001:db8::{number:x}"}
        answer = await registry.call("GET", "/v2/", user=("ann", f"wrong {number}"), headers=address)
        statuses.add(answer.status)
    assert statuses == {401, 429}
    elsewhere = {"cf-connecting-ip": "2001:db8:0:1::1"}
    assert (await registry.call("GET", "/v2/", user=("ann", "her password"), headers=elsewhere)).status == 200
    await registry.call("GET", "/v2/", user=("\U0001f600" * 1_000, "x"), headers={"cf-connecting-ip": "x" * 10_000})
    spent = registry.registry.authenticator._guard._spent  # noqa: SLF001
    assert all(len(part) <= 64 for key in spent for part in key)
