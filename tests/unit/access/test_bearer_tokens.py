"""The token endpoint: `registry.api.tokens`, `registry.access.bearer_tokens`, `registry.access.scopes`."""

import json
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.access.bearer_tokens import ACCESS_SECONDS
from registry.access.scopes import parse_scopes
from registry.access.signed_tokens import LEEWAY
from registry.access.signing_key import REREAD_SECONDS
from registry.ports.storage import StorageError
from registry.settings import read_settings
from registry.storage import keys
from tests.fakes.client import START, VARIABLES, Answer, FakeRegistry
from tests.tokens import jwk, setting, sign
from tests.unit.access.test_authenticator import ACCOUNTS, hashed

CI = ("ci", "generated")


def with_bearer(**variables: str) -> FakeRegistry:
    """A registry that sends clients to the token endpoint."""
    base = {**VARIABLES, "BEARER_TOKENS": "true", "ACCOUNTS_JSON": json.dumps(ACCOUNTS)}
    return FakeRegistry(settings=read_settings({**base, **variables}.get))


@pytest.fixture
def registry() -> FakeRegistry:
    """A registry with accounts and Bearer tokens."""
    return with_bearer()


async def get_token(registry: FakeRegistry, *scopes: str, user: tuple[str, str] | None = CI, **query: str) -> Answer:
    """Request a token with GET, as docker does."""
    pairs = [("service", "registry.example"), *(("scope", scope) for scope in scopes), *query.items()]
    return await registry.call("GET", f"/v2/token?{urlencode(pairs)}", user=user)


async def post_token(registry: FakeRegistry, **form: str) -> Answer:
    """Request a token with POST, as in the OAuth2 variant."""
    headers = {"content-type": "application/x-www-form-urlencoded"}
    return await registry.call("POST", "/v2/token", urlencode(form).encode(), user=None, headers=headers)


def body(answer: Answer) -> dict[str, Any]:
    """The JSON of a successful answer."""
    assert answer.status == 200, answer
    return dict(json.loads(answer.body))


def claims(answer: Answer) -> dict[str, Any]:
    """The claims of the token in an answer, not verified."""
    return dict(jwt.decode(body(answer)["token"], options={"verify_signature": False}))


async def use(registry: FakeRegistry, token: str, method: str, url: str) -> Answer:
    """Send a request with a Bearer token."""
    return await registry.call(method, url, user=None, headers={"authorization": f"Bearer {token}"})


# ------------------------------------------------------------------ the flow
async def test_the_challenge(registry: FakeRegistry) -> None:
    """Token specification, "Requesting a Token": realm, service and scope."""
    start = 'Bearer realm="https://registry.example/v2/token",service="registry.example"'
    for method, url, scope in (
        ("GET", "/v2/", ""),
        ("GET", "/v2/nonsense", ""),
        ("GET", "/v2/a/b/manifests/1", ',scope="repository:a/b:pull"'),
        ("HEAD", "/v2/a/b/manifests/1", ',scope="repository:a/b:pull"'),
        ("PUT", "/v2/a/b/manifests/1", ',scope="repository:a/b:pull,push"'),
        ("DELETE", "/v2/a/b/manifests/1", ',scope="repository:a/b:delete"'),
        ("POST", "/v2/a/b/blobs/uploads/", ',scope="repository:a/b:pull,push"'),
        (
            "POST",
            f"/v2/a/blobs/uploads/?mount=sha256:{'0' * 64}&from=b",
            ',scope="repository:a:pull,push repository:b:pull"',
        ),
        ("GET", "/v2/_catalog", ',scope="registry:catalog:*"'),
    ):
        answer = await registry.call(method, url, user=None)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == start + scope


async def test_the_docker_flow(registry: FakeRegistry) -> None:
    """One token for push and pull suffices for a whole push."""
    answer = await get_token(registry, "repository:team/app:pull,push")
    assert answer.headers["Cache-Control"] == "no-store"
    token = body(answer)
    assert token["token"] == token["access_token"]
    assert token["expires_in"] == ACCESS_SECONDS
    assert token["issued_at"] == "2027-01-15T08:00:01Z"
    assert "refresh_token" not in token
    assert (await use(registry, token["token"], "GET", "/v2/")).status == 200
    assert (await use(registry, token["token"], "POST", "/v2/team/app/blobs/uploads/")).status == 202
    assert (await use(registry, token["token"], "GET", "/v2/team/app/tags/list")).status == 404


async def test_basic_keeps_working(registry: FakeRegistry) -> None:
    """With BEARER_TOKENS, Basic credentials still work on every endpoint."""
    assert (await registry.call("POST", "/v2/team/app/blobs/uploads/", user=CI)).status == 202


async def test_scopes_are_cut_down(registry: FakeRegistry) -> None:
    """A token gets only what the account may do. The denied rest is 403, not a 401 that asks for another token."""
    answer = await get_token(
        registry, "repository:team/base:pull,push,delete repository:other:pull", "registry:catalog:*"
    )
    assert claims(answer)["access"] == [
        {"type": "repository", "name": "team/base", "actions": ["pull"]},
        {"type": "repository", "name": "other", "actions": []},
        {"type": "registry", "name": "catalog", "actions": ["*"]},
    ]
    token = body(answer)["token"]
    for method, url, status in (
        ("GET", "/v2/team/base/manifests/1", 404),
        ("PUT", "/v2/team/base/manifests/1", 403),
        ("DELETE", "/v2/team/base/manifests/1", 403),
        ("GET", "/v2/other/manifests/1", 403),
        ("GET", "/v2/team/app/manifests/1", 401),
    ):
        assert (await use(registry, token, method, url)).status == status


async def test_the_password_is_stretched_once(registry: FakeRegistry) -> None:
    """The purpose of Bearer tokens: requests with one cost no PBKDF2, not even in another isolate."""
    token = body(await get_token(registry, "repository:a:pull", user=("ann", "her password")))["token"]
    assert registry.crypto.stretched == 1
    registry.restart()
    for _ in range(3):
        assert (await use(registry, token, "GET", "/v2/a/manifests/1")).status == 404
    assert registry.crypto.stretched == 1


async def test_a_token_costs_no_r2_call(registry: FakeRegistry) -> None:
    """Tokens cost one R2 call for the key in the lifetime of an isolate, and no others."""
    await get_token(registry, "repository:a:pull")
    before = registry.bucket.usage.class_a, registry.bucket.usage.class_b
    token = body(await get_token(registry, "repository:team/a:pull"))["token"]
    assert (await use(registry, token, "GET", "/v2/")).status == 200
    assert (registry.bucket.usage.class_a, registry.bucket.usage.class_b) == before
    registry.restart()
    assert (await use(registry, token, "GET", "/v2/")).status == 200
    assert (registry.bucket.usage.class_a, registry.bucket.usage.class_b) == (before[0], before[1] + 1)


async def test_tokens_are_short_lived(registry: FakeRegistry) -> None:
    """An access token expires after five minutes, or with the operator's signed token that it was issued for."""
    token = body(await get_token(registry))["token"]
    registry.clock.now += ACCESS_SECONDS - 2
    assert (await use(registry, token, "GET", "/v2/")).status == 200
    registry.clock.now += 2
    answer = await use(registry, token, "GET", "/v2/")
    assert answer.status == 401
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    registry = with_bearer(JWT_REGISTRY_TOKENS_PUBLIC_KEY=setting(jwk("ES256")))
    answer = await get_token(registry, "repository:a:pull", user=("", sign(exp=int(START) + 61)))
    assert body(answer)["expires_in"] == 60 + LEEWAY
    assert claims(answer)["sub"] == "v0"


async def test_wrong_credentials_at_the_token_endpoint(registry: FakeRegistry) -> None:
    """The token endpoint answers 401 with a Basic challenge, since it accepts only Basic credentials."""
    for user in (None, ("ci", "wrong"), ("stranger", "x")):
        answer = await get_token(registry, "repository:team/app:pull", user=user)
        assert (answer.status, answer.codes) == (401, ["UNAUTHORIZED"])
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    token = body(await get_token(registry, "repository:team/app:pull"))["token"]
    assert (await use(registry, token, "GET", "/v2/token")).status == 401, "an access token cannot get another"
    for name in ("ci", ""):
        assert (await get_token(registry, user=(name, token))).status == 401


async def test_without_the_setting_there_are_no_tokens() -> None:
    """The token endpoint answers 404, and challenges are Basic."""
    registry = FakeRegistry()
    assert (await get_token(registry)).status == 404
    assert (await post_token(registry, grant_type="password", username="hello", password="world")).status == 404
    assert (await registry.call("GET", "/v2/", user=None)).headers["WWW-Authenticate"].startswith("Basic ")


# ------------------------------------------------------------------ anonymous
async def test_anonymous_tokens() -> None:
    """Docker requests a token without credentials if it has none; it gets one for public repositories."""
    registry = with_bearer(ANONYMOUS_PULL="public/**", BEARER_TOKENS="")
    answer = await get_token(registry, "repository:public/app:pull,push", "registry:catalog:*", user=None)
    assert claims(answer)["access"] == [{"type": "repository", "name": "public/app", "actions": ["pull"]}]
    token = body(answer)["token"]
    for method, url, status in (
        ("GET", "/v2/", 200),
        ("GET", "/v2/public/app/manifests/1", 404),
        ("PUT", "/v2/public/app/manifests/1", 401),
        ("GET", "/v2/team/app/manifests/1", 401),
        ("GET", "/v2/_catalog", 401),
        ("POST", "/v2/_migrate", 401),
    ):
        assert (await use(registry, token, method, url)).status == status
    assert (await get_token(registry, user=None, offline_token="true")).status == 200
    assert "refresh_token" not in body(await get_token(registry, user=None, offline_token="true"))


# ------------------------------------------------------------------ OAuth2 and refresh tokens
async def test_post_with_a_password(registry: FakeRegistry) -> None:
    """grant_type=password; one field has all scopes."""
    answer = await post_token(
        registry,
        grant_type="password",
        username="ci",
        password="generated",
        client_id="test",
        service="registry.example",
        scope="repository:team/app:pull,push repository:team/base:pull,push",
    )
    assert [one["actions"] for one in claims(answer)["access"]] == [["pull", "push"], ["pull"]]
    assert "refresh_token" not in body(answer)
    assert (await post_token(registry, grant_type="password", username="ci", password="x")).status == 401


async def test_refresh_tokens(registry: FakeRegistry) -> None:
    """Docker stores a refresh token instead of the password; it is valid until the account's secret changes."""
    refresh = body(await get_token(registry, offline_token="true", account="ci"))["refresh_token"]
    posted = body(
        await post_token(registry, grant_type="password", username="ci", password="generated", access_type="offline")
    )
    registry.clock.now += 30 * 24 * 3600 - 60
    for token in (refresh, posted["refresh_token"]):
        answer = await post_token(
            registry, grant_type="refresh_token", refresh_token=token, scope="repository:team/a:push"
        )
        assert claims(answer)["access"] == [{"type": "repository", "name": "team/a", "actions": ["push"]}]
        assert (await get_token(registry, user=("any", token))).status == 200, "valid in place of the password, too"
        assert (await use(registry, token, "GET", "/v2/")).status == 401, "it is valid at the token endpoint only"
        assert (await registry.call("GET", "/v2/", user=("ci", token))).status == 401


async def test_refresh_tokens_end_and_are_renewed_by_use(registry: FakeRegistry) -> None:
    """A refresh token expires after 30 days, or the number that the operator set; each use returns a new one."""
    token = body(await get_token(registry, offline_token="true"))["refresh_token"]
    for _ in range(3):
        registry.clock.now += 29 * 24 * 3600
        token, old = (
            body(await post_token(registry, grant_type="refresh_token", refresh_token=token))["refresh_token"],
            token,
        )
    registry.clock.now += 2 * 24 * 3600
    assert (await post_token(registry, grant_type="refresh_token", refresh_token=old)).status == 401
    registry.clock.now += 28 * 24 * 3600
    assert (await post_token(registry, grant_type="refresh_token", refresh_token=token)).status == 401
    short = with_bearer(REFRESH_TOKEN_DAYS="1")
    token = body(await get_token(short, offline_token="true"))["refresh_token"]
    short.clock.now += 24 * 3600 + 1
    assert (await post_token(short, grant_type="refresh_token", refresh_token=token)).status == 401


async def test_a_refresh_token_without_an_end(registry: FakeRegistry) -> None:
    """Older versions issued refresh tokens without `exp`: they are no longer accepted."""
    refresh = body(await get_token(registry, offline_token="true"))["refresh_token"]
    values = jwt.decode(refresh, options={"verify_signature": False})
    del values["exp"]
    endless = jwt.encode(values, await registry.registry.signing_key.derive("bearer tokens"), "HS256")
    assert (await post_token(registry, grant_type="refresh_token", refresh_token=endless)).status == 401


async def test_deleting_the_secret_revokes_within_a_minute(registry: FakeRegistry) -> None:
    """An isolate that goes on running refuses even credentials in its cache."""
    answer = body(await get_token(registry, "repository:team/a:pull", offline_token="true"))
    access, refresh = answer["token"], answer["refresh_token"]
    assert (await use(registry, access, "GET", "/v2/")).status == 200
    await registry.bucket.delete([keys.SIGNING_KEY])
    registry.clock.now += REREAD_SECONDS
    assert (await use(registry, access, "GET", "/v2/")).status == 401
    assert (await post_token(registry, grant_type="refresh_token", refresh_token=refresh)).status == 401
    assert (await get_token(registry)).status == 200


@pytest.mark.parametrize("change", ["secret", "name", "gone", "key"])
async def test_a_refresh_token_ends_with_its_account(change: str, registry: FakeRegistry) -> None:
    """A changed secret, a changed name, a removed account or a deleted signing key revokes a refresh token."""
    refresh = body(await get_token(registry, offline_token="true"))["refresh_token"]
    accounts = [account for account in ACCOUNTS if account["name"] != "ci"]
    if change in {"secret", "name"}:
        name, secret = ("ci", "changed") if change == "secret" else ("other", "generated")
        accounts = [{**ACCOUNTS[0], "name": name, "secret": hashed(secret)}, *accounts]
    if change == "key":
        await registry.bucket.delete([keys.SIGNING_KEY])
    else:
        registry.settings = with_bearer(ACCOUNTS_JSON=json.dumps(accounts)).settings
    registry.restart()
    answer = await post_token(registry, grant_type="refresh_token", refresh_token=refresh)
    assert (answer.status, answer.codes) == (401, ["UNAUTHORIZED"])


async def test_permissions_are_looked_up_when_refreshed(registry: FakeRegistry) -> None:
    """A permission that the operator removed from an account is not in the next access token."""
    refresh = body(await get_token(registry, offline_token="true"))["refresh_token"]
    fewer = [{**ACCOUNTS[0], "permissions": {"team/app": ["pull"]}}]
    registry.settings = with_bearer(ACCOUNTS_JSON=json.dumps(fewer)).settings
    registry.restart()
    answer = await post_token(
        registry, grant_type="refresh_token", refresh_token=refresh, scope="repository:team/app:pull,push"
    )
    assert claims(answer)["access"][0]["actions"] == ["pull"]


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"grant_type": "password"},
        {"grant_type": "refresh_token", "password": "x"},
        {"grant_type": "authorization_code", "code": "x"},
        {"grant_type": "password", "password": "x" * 40_000},
    ],
)
async def test_forms_that_make_no_sense(registry: FakeRegistry, form: dict[str, str]) -> None:
    """A form with missing, unknown or too long fields gets 400."""
    assert (await post_token(registry, **form)).status == 400


async def test_broken_forms(registry: FakeRegistry) -> None:
    """A body that is not a form gets 400."""
    for data in (b"\xff\xfe", b"grant_type=password&grant_type=refresh_token", b"%ff=%ff", b"", b"{}"):
        assert (await registry.call("POST", "/v2/token", data, user=None)).status == 400


# ------------------------------------------------------------------ attacks
async def test_forged_tokens(registry: FakeRegistry) -> None:
    """Tokens with another key, without a signature or with a broken one, and a refresh token, are refused."""
    good = body(await get_token(registry, "repository:team/app:pull", offline_token="true"))
    payload = jwt.decode(good["token"], options={"verify_signature": False})
    head, encoded, signature = good["token"].split(".")
    forged = [
        jwt.encode(payload, "k" * 32, "HS256"),
        jwt.encode(payload, None, "none"),  # type: ignore[arg-type]
        sign(payload),
        f"{head}.{encoded}.",
        f"{head}.{encoded}.{signature[:-2]}",
        good["refresh_token"],
    ]
    for token in forged:
        answer = await use(registry, token, "GET", "/v2/team/app/manifests/1")
        assert (answer.status, answer.codes) == (401, ["UNAUTHORIZED"])


async def test_forged_tokens_do_not_cost_r2_calls(registry: FakeRegistry) -> None:
    """Wrong tokens cause at most one read of the key a minute, which finds out whether the operator deleted it."""
    good = body(await get_token(registry))["token"]
    before = registry.bucket.usage.class_b
    for number in range(50):
        await use(registry, jwt.encode({"iss": "r2-registry", "n": number}, "k" * 32, "HS256"), "GET", "/v2/")
    assert registry.bucket.usage.class_b <= before + 1
    other = FakeRegistry(clock=registry.clock, settings=registry.settings, storage=registry.bucket, seed=5)
    await registry.bucket.delete([keys.SIGNING_KEY])
    token = body(await get_token(other))["token"]
    registry.clock.now += 60
    assert (await use(registry, token, "GET", "/v2/")).status == 200
    assert (await use(other, good, "GET", "/v2/")).status == 401


# ------------------------------------------------------------------ scopes
@pytest.mark.parametrize(
    ("scope", "granted"),
    [
        ("repository:a/b:pull", [("a/b", ["pull"])]),
        ("repository:a:pull,push repository:a:delete", [("a", ["delete", "pull", "push"])]),
        ("repository:a:*", [("a", ["delete", "pull", "push"])]),
        ("repository(plugin):a:pull", [("a", ["pull"])]),
        ("repository:a:admin", [("a", [])]),
        ("repository:A:pull", []),
        ("repository:host:5000/a:pull", []),
        ("repository::pull", []),
        ("repository:a", []),
        ("other:a:pull", []),
        ("", []),
    ],
)
def test_scope_grammar(scope: str, granted: list[tuple[str, list[str]]]) -> None:
    """Unknown scopes and actions are not granted, and are no error."""
    found = parse_scopes([scope]).repositories
    assert [(name, sorted(one.value for one in access)) for name, access in found] == granted


@given(st.lists(st.text()))
def test_any_scope_is_read(values: list[str]) -> None:
    """No input raises an error, and the number of scopes is bounded."""
    assert len(parse_scopes(values * 30).repositories) <= 50


async def test_scopes_that_make_a_token_too_long(registry: FakeRegistry) -> None:
    """The token endpoint issues no token that the API would refuse for its length."""
    scopes = [f"repository:{'x' * 200}/{number}:pull" for number in range(50)]
    answer = await get_token(registry, *scopes)
    assert (answer.status, answer.codes) == (400, ["UNSUPPORTED"])
    assert b"ask for fewer" in answer.body


async def test_a_failed_read_does_not_prolong_the_cached_secret(registry: FakeRegistry) -> None:
    """After a failed read the next request reads the secret again, so a deleted secret is not used another minute."""
    key = registry.registry.signing_key
    old = await key.secret()
    await registry.bucket.delete([keys.SIGNING_KEY])
    registry.clock.now += REREAD_SECONDS

    def fail(call: str, asked: str) -> None:
        raise StorageError("R2 fell over")

    no_fault, registry.bucket.fail = registry.bucket.fail, fail
    with pytest.raises(StorageError):
        await key.secret()
    registry.bucket.fail = no_fault
    assert await key.secret() != old
