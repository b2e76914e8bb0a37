"""Access control: the status of every endpoint with every kind of credential and every permission."""

import json
from itertools import combinations

import pytest

from registry.settings import read_settings
from registry.spec.endpoints import Open
from tests.fakes.client import FakeRegistry, basic
from tests.tokens import CLAIMS, jwk, setting, sign
from tests.unit.access.test_authenticator import hashed, stretched
from tests.unit.spec.test_endpoints import ROWS

DIGEST = f"sha256:{'0' * 64}"
NAME = "team/app"
# Method, path, actions of which the caller needs one, status in an empty repository if the caller has one.
ENDPOINTS = [
    ("GET", "/v2/", {"pull", "push", "delete"}, 200),
    ("HEAD", f"/v2/{NAME}/blobs/{DIGEST}", {"pull", "push"}, 404),
    ("GET", f"/v2/{NAME}/blobs/{DIGEST}", {"pull"}, 404),
    ("DELETE", f"/v2/{NAME}/blobs/{DIGEST}", {"delete"}, 404),
    ("HEAD", f"/v2/{NAME}/manifests/1", {"pull", "push"}, 404),
    ("GET", f"/v2/{NAME}/manifests/1", {"pull"}, 404),
    ("PUT", f"/v2/{NAME}/manifests/1", {"push"}, 400),
    ("DELETE", f"/v2/{NAME}/manifests/1", {"delete"}, 404),
    ("POST", f"/v2/{NAME}/blobs/uploads/", {"push"}, 202),
    ("POST", f"/v2/{NAME}/blobs/uploads/?digest={DIGEST}", {"push"}, 400),
    ("POST", f"/v2/{NAME}/blobs/uploads/?digest-algorithm=sha512", {"push"}, 202),
    ("POST", f"/v2/{NAME}/blobs/uploads/?mount={DIGEST}&from=team/base", {"push"}, 202),
    ("GET", f"/v2/{NAME}/blobs/uploads/x", {"push"}, 404),
    ("PATCH", f"/v2/{NAME}/blobs/uploads/x", {"push"}, 404),
    ("PUT", f"/v2/{NAME}/blobs/uploads/x?digest={DIGEST}", {"push"}, 404),
    ("DELETE", f"/v2/{NAME}/blobs/uploads/x", {"push"}, 404),
    ("GET", f"/v2/{NAME}/tags/list", {"pull"}, 404),
    ("GET", f"/v2/{NAME}/referrers/{DIGEST}", {"pull"}, 200),
    ("GET", "/v2/_catalog", {"pull"}, 200),
    ("POST", "/v2/_migrate", {"delete"}, 200),
    ("GET", "/v2/_retention", {"delete"}, 200),
    ("GET", "/metrics", {"pull"}, 404),
    ("POST", f"/v2/{NAME}/gc", {"delete"}, 200),
    ("GET", f"/v2/{NAME}/gc?mode=verify", {"delete"}, 200),
]
# Endpoints for the whole bucket.
WHOLE = ("/v2/_migrate", "/v2/_retention", "/metrics")
# Missing, wrong and malformed credentials.
NOBODIES = {
    "nothing": None,
    "wrong-password": basic("account", "wrong"),
    "unknown-account": basic("stranger", "secret"),
    "broken-basic": "Basic !",
    "other-scheme": "Digest x",
    "jwt-of-another-key": f"Bearer {sign(which=5)}",
    "expired-jwt": f"Bearer {sign(exp=1)}",
    "nonsense-bearer": "Bearer x",
}
PERMISSIONS = [set(some) for size in range(4) for some in combinations(("pull", "push", "delete"), size)]
KINDS = ["token-account", "password-account", "jwt-as-basic", "jwt-as-bearer", "jwt-with-access", "bearer", "refreshed"]


def make_registry(allowed: set[str], glob: str, public: str = "") -> FakeRegistry:
    """A registry with an account of each kind, which has these permissions, a public key, and Bearer tokens."""
    table = {glob: sorted(allowed)}
    accounts = [
        {"name": "account", "secret": hashed("secret"), "permissions": table},
        {"name": "person", "secret": stretched("password"), "permissions": table},
    ]
    variables = {
        "ACCOUNTS_JSON": json.dumps(accounts),
        "JWT_REGISTRY_TOKENS_PUBLIC_KEY": setting(jwk("ES256")),
        "BEARER_TOKENS": "true",
        "ANONYMOUS_PULL": public,
    }
    return FakeRegistry(settings=read_settings(variables.get))


async def credentials(registry: FakeRegistry, kind: str, allowed: set[str], glob: str, scope: str) -> str:
    """An Authorization header of one kind."""
    capabilities = sorted(allowed)
    match kind:
        case "token-account":
            return basic("account", "secret")
        case "password-account":
            return basic("person", "password")
        case "jwt-as-basic":
            return basic("", sign(capabilities=capabilities))
        case "jwt-as-bearer":
            return f"Bearer {sign(capabilities=capabilities)}"
        case "jwt-with-access":
            access = [{"type": "repository", "name": glob, "actions": capabilities}]
            return f"Bearer {sign({'exp': CLAIMS['exp'], 'access': access})}"
    header = {"authorization": basic("account", "secret")}
    offline = "&offline_token=true" if kind == "refreshed" else ""
    answer = await registry.call("GET", f"/v2/token?{scope}{offline}", user=None, headers=header)
    if kind == "refreshed":
        refresh = json.loads(answer.body)["refresh_token"]
        form = f"grant_type=refresh_token&refresh_token={refresh}&{scope}"
        answer = await registry.call("POST", "/v2/token", form.encode(), user=None)
    assert answer.status == 200, answer
    return f"Bearer {json.loads(answer.body)['token']}"


ALL_SCOPES = f"scope=repository:{NAME}:pull,push,delete&scope=registry:catalog:*"


def test_every_endpoint_is_in_the_matrix() -> None:
    """The matrix has all endpoints but the open ones, which have tests of their own."""
    rows = {(type(row[2]).row, type(row[2]).method) for row in ROWS if not isinstance(row[2], Open)}
    registry = {("end-1", "GET"), ("catalog", "GET"), ("migrate", "POST"), ("retention", "GET")}
    assert len(ENDPOINTS) == len({type(row[2]) for row in ROWS if not isinstance(row[2], Open)})
    assert rows >= registry


@pytest.mark.parametrize("allowed", PERMISSIONS, ids=lambda allowed: "+".join(sorted(allowed)) or "none")
@pytest.mark.parametrize("kind", KINDS)
async def test_matrix(kind: str, allowed: set[str]) -> None:
    """Valid credentials get the endpoint's own answer if the permissions suffice, and 403 DENIED otherwise."""
    for glob in ("team/*", "**"):
        registry = make_registry(allowed, glob)
        header = await credentials(registry, kind, allowed, glob, ALL_SCOPES)
        for method, url, needed, status in ENDPOINTS:
            is_enough = bool(allowed & needed)
            if url in WHOLE:
                # There is no scope for these endpoints, so access tokens never suffice.
                has_everything = glob == "**" or kind in {"jwt-as-basic", "jwt-as-bearer"}
                is_enough = is_enough and has_everything and kind not in {"bearer", "refreshed"}
            if url == "/v2/" and kind in {"bearer", "refreshed"}:
                is_enough = True  # a valid token suffices, whatever its scope
            answer = await registry.call(method, url, user=None, headers={"authorization": header})
            assert answer.status == (status if is_enough else 403), (method, url, glob, answer)
            if not is_enough:
                assert answer.codes == ["DENIED"]


@pytest.mark.parametrize("kind", KINDS)
async def test_other_repositories(kind: str) -> None:
    """Permissions on other repositories do not apply."""
    everything = {"pull", "push", "delete"}
    registry = make_registry(everything, "elsewhere/**")
    header = await credentials(registry, kind, everything, "elsewhere/**", ALL_SCOPES)
    for method, url, _, status in ENDPOINTS:
        if NAME in url:
            answer = await registry.call(method, url, user=None, headers={"authorization": header})
            assert answer.status == (status if kind in {"jwt-as-basic", "jwt-as-bearer"} else 403), (
                method,
                url,
                answer,
            )


@pytest.mark.parametrize("kind", NOBODIES)
async def test_nobody(kind: str) -> None:
    """Without valid credentials every endpoint, HEAD included, answers 401 with a challenge that names the scope."""
    registry = make_registry({"pull", "push", "delete"}, "**", "public/**")
    header = NOBODIES[kind]
    headers = {} if header is None else {"authorization": header}
    for method, url, _, _ in ENDPOINTS:
        answer = await registry.call(method, url, user=None, headers=headers)
        assert (answer.status, answer.codes) == (401, ["UNAUTHORIZED"]), (method, url)
        challenge = answer.headers["WWW-Authenticate"]
        if header is None and url.startswith("/v2/_catalog"):
            assert challenge.startswith("Basic "), "a web UI would get an anonymous token"
            continue
        assert challenge.startswith('Bearer realm="https://registry.example/v2/token",service="registry.example"')
        assert (f'scope="repository:{NAME}:' in challenge) == (NAME in url)
    # Anonymous pulls work without credentials, but not with wrong ones.
    answer = await registry.call("GET", "/v2/public/app/manifests/1", user=None, headers=headers)
    assert answer.status == (404 if header is None else 401)


@pytest.mark.parametrize("kind", ["bearer", "refreshed"])
async def test_a_narrow_token(kind: str) -> None:
    """A token whose scope does not cover the request gets 401 with insufficient_scope: the client requests another."""
    everything = {"pull", "push", "delete"}
    for method, url, _, _ in ENDPOINTS:
        registry = make_registry(everything, "**")
        header = await credentials(registry, kind, everything, "**", "scope=repository:team/base:pull")
        answer = await registry.call(method, url, user=None, headers={"authorization": header})
        if url in ("/v2/", *WHOLE):
            assert answer.status == (200 if url == "/v2/" else 403)
            continue
        assert answer.status == 401, (method, url)
        assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]
        scope = answer.headers["WWW-Authenticate"].partition('scope="')[2].partition('"')[0]
        again = await credentials(registry, kind, everything, "**", f"scope={scope.replace(' ', '+')}")
        answer = await registry.call(method, url, user=None, headers={"authorization": again})
        assert answer.status not in (401, 403), (method, url)
