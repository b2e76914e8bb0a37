"""Identity tokens of a CI system: `registry.access.oidc`. The issuer on loopback is in tests/workerd/auth.test.mjs."""

import json
from collections.abc import Mapping
from typing import Any

import jwt
import pytest

from registry.settings import read_settings
from tests.fakes.client import START, VARIABLES, Answer, FakeRegistry
from tests.fakes.machine import Reply, WebRequest
from tests.tokens import jwk, sign
from tests.unit.access.test_bearer_tokens import body, get_token, post_token, use

URL, JWKS = "https://token.actions.example", "https://token.actions.example/.well-known/jwks"
ISSUER: dict[str, Any] = {
    "issuer": URL,
    "jwks": JWKS,
    "audience": "registry.example",
    "session": 1800,
    "rules": [
        {
            "claims": {"repository": "org/app", "ref": ["refs/heads/main", "refs/tags/*"]},
            "permissions": {"org/app": ["pull", "push"]},
        },
        {"claims": {"repository_owner": "org"}, "permissions": {"org/**": ["pull"]}},
    ],
}
CLAIMS = {
    "iss": URL,
    "aud": "registry.example",
    "sub": "repo:org/app:ref:refs/heads/main",
    "repository": "org/app",
    "repository_owner": "org",
    "ref": "refs/heads/main",
    "exp": int(START) + 300,
    "iat": int(START),
}
SCOPE = "repository:org/app:pull,push"


class IssuerKeys:
    """The issuer's JWKS page."""

    def __init__(self) -> None:
        self.answer: tuple[int, bytes] = (200, b"")
        self.rotate(0)

    def rotate(self, which: int) -> None:
        """Serve this key from now on, and one of an unknown kind."""
        keys = [{"kty": "new", "kid": "x"}, jwk("RS256", which, kid=f"key-{which}", use="sig", alg="RS256")]
        self.answer = (200, json.dumps({"keys": keys}).encode())

    async def __call__(self, request: WebRequest) -> Reply:
        """Answer a request for the keys."""
        assert request.url == JWKS
        status, data = self.answer
        return Reply(status, chunks=[data])


@pytest.fixture
def keys() -> IssuerKeys:
    """The issuer's JWKS page."""
    return IssuerKeys()


@pytest.fixture
def registry(keys: IssuerKeys) -> FakeRegistry:
    """A registry that trusts the issuer."""
    registry = FakeRegistry(settings=read_settings({**VARIABLES, "OIDC_ISSUERS_JSON": json.dumps([ISSUER])}.get))
    registry.web.servers[URL] = keys
    return registry


def identity(which: int = 0, header: Mapping[str, object] | None = None, **more: Any) -> str:
    """An identity token as the issuer signs it."""
    return sign({**CLAIMS, **more}, "RS256", which, header or {"kid": f"key-{which}"})


async def exchange(registry: FakeRegistry, token: str, scope: str = SCOPE) -> Answer:
    """Exchange an identity token, as docker does after `docker login --password-stdin`."""
    return await get_token(registry, scope, user=("github", token), offline_token="true")


def access(answer: Answer) -> list[str]:
    """The actions that were granted on the first repository."""
    token = jwt.decode(body(answer)["token"], options={"verify_signature": False})
    return list(token["access"][0]["actions"])


async def test_an_identity_token_is_exchanged(registry: FakeRegistry) -> None:
    """An access token has the permissions of the matching rules; by GET, password and token exchange (RFC 8693)."""
    answers = [
        await exchange(registry, identity()),
        await post_token(registry, grant_type="password", username="x", password=identity(), scope=SCOPE),
        await post_token(
            registry,
            grant_type="urn:ietf:params:oauth:grant-type:token-exchange",
            subject_token=identity(),
            subject_token_type="urn:ietf:params:oauth:token-type:id_token",
            scope=SCOPE,
        ),
    ]
    for answer in answers:
        assert access(answer) == ["pull", "push"]
        token = body(answer)["token"]
        assert (await use(registry, token, "POST", "/v2/org/app/blobs/uploads/")).status == 202
        assert (await use(registry, token, "GET", "/v2/org/other/manifests/1")).status == 401
    assert registry.web.asked == [JWKS]


@pytest.mark.parametrize(
    ("claims", "granted"),
    [
        ({"ref": "refs/tags/v1"}, ["pull", "push"]),
        ({"ref": "refs/tags/a/b"}, ["pull"]),
        ({"ref": "refs/heads/main2"}, ["pull"]),
        ({"repository": "org/other"}, ["pull"]),
        ({"repository": "org/app", "repository_owner": "evil"}, ["pull", "push"]),
        ({"ref": None, "repository_owner": "evil"}, None),
        ({"repository": ["org/app"], "repository_owner": True}, None),
        ({"repository": "ORG/app", "repository_owner": "Org"}, None),
    ],
)
async def test_rules(registry: FakeRegistry, claims: dict[str, Any], granted: list[str] | None) -> None:
    """All claims of a rule must match. All matching rules apply. If no rule matches, the answer is 403."""
    answer = await exchange(registry, identity(**claims))
    if granted is None:
        assert (answer.status, answer.codes) == (403, ["DENIED"])
    else:
        assert access(answer) == granted


@pytest.mark.parametrize(
    "token",
    [
        lambda: identity(aud="https://github.com/org"),
        lambda: identity(exp=int(START) - 60),
        lambda: identity(nbf=int(START) + 600),
        lambda: identity(1, {"kid": "key-0"}),
        lambda: sign(CLAIMS, "ES256", header={"kid": "key-0"}),
        lambda: jwt.encode(CLAIMS, None, "none"),  # type: ignore[arg-type]
        lambda: jwt.encode(CLAIMS, jwk("RS256")["n"], "HS256", {"kid": "key-0"}),
        lambda: identity(iss=URL + "/"),
        lambda: sign({**CLAIMS, "exp": None}, "RS256", header={"kid": "key-0"}),
    ],
)
async def test_wrong_identity_tokens(registry: FakeRegistry, token: Any) -> None:
    """A token with a wrong audience, time, key, algorithm or issuer gets 401."""
    answer = await exchange(registry, token())
    assert (answer.status, answer.codes) == (401, ["UNAUTHORIZED"])


async def test_only_the_token_endpoint_takes_identity_tokens(registry: FakeRegistry) -> None:
    """All other endpoints refuse identity tokens, which do not name repositories."""
    assert (await registry.call("GET", "/v2/", user=("x", identity()))).status == 401
    assert (await use(registry, identity(), "GET", "/v2/")).status == 401


async def test_refresh_tokens_for_long_jobs(registry: FakeRegistry) -> None:
    """A job may outlast its identity token: docker's refresh token is valid for `session`, or until a rule changes."""
    refresh = body(await exchange(registry, identity()))["refresh_token"]
    registry.clock.now += 1500
    form = {"grant_type": "refresh_token", "refresh_token": refresh, "scope": SCOPE}
    assert access(await post_token(registry, **form)) == ["pull", "push"]
    stricter = json.dumps([{**ISSUER, "rules": ISSUER["rules"][1:]}])
    before, registry.settings = registry.settings, read_settings({**VARIABLES, "OIDC_ISSUERS_JSON": stricter}.get)
    registry.restart()
    assert (await post_token(registry, **form)).status == 401
    registry.settings = before
    registry.restart()
    assert (await post_token(registry, **form)).status == 200
    registry.clock.now += 300
    assert (await post_token(registry, **form)).status == 401


# ------------------------------------------------------------------ the issuer's keys
async def test_keys_are_fetched_at_most_once_a_minute(registry: FakeRegistry, keys: IssuerKeys) -> None:
    """An unknown `kid` causes a fetch, since the issuer rotates its keys; but not each invented `kid` does."""
    assert (await exchange(registry, identity())).status == 200
    keys.rotate(1)
    registry.clock.now += 60
    assert (await exchange(registry, identity(1))).status == 200
    assert len(registry.web.asked) == 2
    for number in range(20):
        assert (await exchange(registry, identity(header={"kid": f"invented-{number}"}))).status == 401
    assert len(registry.web.asked) == 2
    assert (await exchange(registry, identity(1))).status == 200


async def test_keys_are_fetched_again_after_an_hour(registry: FakeRegistry, keys: IssuerKeys) -> None:
    """A key that the issuer withdrew is no longer trusted."""
    assert (await exchange(registry, identity())).status == 200
    keys.rotate(1)
    registry.clock.now += 3601
    assert (await exchange(registry, identity(exp=int(registry.clock.now) + 60))).status == 401


async def test_known_keys_outlast_an_outage(registry: FakeRegistry, keys: IssuerKeys) -> None:
    """While the issuer does not answer, known keys are used for a day; then the answer is 503."""
    assert (await exchange(registry, identity())).status == 200
    keys.answer = (500, b"oops")
    registry.clock.now += 7200
    assert (await exchange(registry, identity(exp=int(registry.clock.now) + 60))).status == 200
    registry.clock.now += 24 * 3600
    assert (await exchange(registry, identity(exp=int(registry.clock.now) + 60))).status == 503


@pytest.mark.parametrize(
    "answer",
    [None, (404, b""), (302, b""), (200, b"<html>"), (200, b"[]"), (200, b'{"keys":' + b" " * 300_000 + b"[]}")],
)
async def test_an_issuer_that_does_not_answer(
    registry: FakeRegistry, keys: IssuerKeys, answer: tuple[int, bytes] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tokens get 503 with Retry-After, the log has an event, and not every token causes a fetch."""
    if answer is None:
        del registry.web.servers[URL]
    else:
        keys.answer = answer
    for _ in range(3):
        refused = await exchange(registry, identity())
        assert (refused.status, refused.headers["Retry-After"]) == (503, "60")
    assert registry.web.asked == [JWKS]
    assert "issuer-keys-not-fetched" in capsys.readouterr().out


async def test_an_issuer_that_stalls(registry: FakeRegistry) -> None:
    """An answer that begins and never ends leads to 503 after a timeout."""

    async def keys(request: WebRequest) -> Reply:
        return Reply(200, chunks=[b"{", lambda: registry.clock.sleep(3600), b"}"])

    registry.web.servers[URL] = keys
    before = registry.clock.now
    assert (await exchange(registry, identity())).status == 503
    assert registry.clock.now - before < 10


# ------------------------------------------------------------------ the setting
@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("[", "not JSON"),
        ("{}", "list of issuers"),
        (json.dumps([{**ISSUER, "more": 1}]), "issuer 1: must be an object"),
        (json.dumps([{**ISSUER, "audience": ""}]), "are strings"),
        (json.dumps([{**ISSUER, "jwks": "http://evil.example/keys"}]), "https"),
        (json.dumps([{**ISSUER, "session": 10**9}]), "seconds"),
        (json.dumps([{**ISSUER, "rules": []}]), "at least one rule"),
        (json.dumps([{**ISSUER, "rules": [{"claims": {}, "permissions": {"**": ["push"]}}]}]), "at least one claim"),
        (json.dumps([{**ISSUER, "rules": [{"claims": {"a": ""}, "permissions": {"**": ["push"]}}]}]), "glob"),
        (json.dumps([{**ISSUER, "rules": [{"claims": {"a": "b"}, "permissions": {"**": ["all"]}}]}]), "pull, push"),
        (json.dumps([ISSUER, ISSUER]), "twice"),
    ],
)
def test_malformed_issuers(value: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The log says what is wrong, and no issuer is trusted."""
    assert read_settings({"OIDC_ISSUERS_JSON": value}.get).access.issuers == ()
    line = json.loads(capsys.readouterr().out)
    assert (line["event"], line["setting"]) == ("setting-ignored", "OIDC_ISSUERS_JSON")
    assert sentence in line["help"]
