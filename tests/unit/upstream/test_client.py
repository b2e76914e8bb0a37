"""Requests to upstreams: credentials and the hosts that get them, tokens, redirects."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest

from registry.upstream.ecr import AccessKey, token_request
from registry.upstream.upstreams import parse_upstreams
from tests.fakes.client import basic, digest_of
from tests.fakes.machine import Reply, WebRequest
from tests.fakes.upstream import TOKEN_SERVER, UPSTREAM, FakeTokenServer, FakeUpstream
from tests.unit.upstream.support import with_upstreams

LAYER = b"a layer"
NAMED = {"registry": UPSTREAM, "username": "me", "password_env": "THERE"}
BEARER = f'Bearer realm="{TOKEN_SERVER}/token",service="up.example",scope="repository:team/app:pull,push"'


class World:
    """A registry, its upstream, and the upstream's token server."""

    def __init__(self, entry: Mapping[str, Any], **token_server: Any) -> None:
        """Start all three."""
        self.upstream = FakeUpstream()
        self.upstream.push("team/app", "1", [LAYER])
        self.upstream.push("team/other", "1", [LAYER])
        self.tokens = FakeTokenServer(self.upstream, **token_server)
        self.registry = with_upstreams({"token_server": TOKEN_SERVER, **entry}, THERE="s3cret")
        self.registry.web.servers |= {UPSTREAM: self.upstream, TOKEN_SERVER: self.tokens}

    async def get(self, name: str = "team/app", path: str = f"blobs/{digest_of(LAYER)}") -> int:
        """Pull, then delete the copy."""
        answer = await self.registry.call("GET", f"/v2/{name}/{path}")
        for key in self.registry.bucket.keys(name):
            del self.registry.bucket.objects[key]
        return answer.status

    def sent(self, origin: str) -> list[str | None]:
        """Return the Authorization header of each request to an origin."""
        return [one.headers.get("authorization") for one in self.registry.web.requests if one.origin == origin]


# ------------------------------------------------------------------ credentials
async def test_nothing_is_sent_unasked() -> None:
    """An upstream that sends no challenge gets no password."""
    world = World(NAMED)
    assert await world.get() == 200
    assert world.sent(UPSTREAM) == [None]


async def test_basic() -> None:
    """Basic credentials are sent after the challenge, and then with every request for this repository."""
    world = World(NAMED)
    world.upstream.challenge = 'Basic realm="there"'
    world.upstream.accepted = {basic("me", "s3cret")}
    for _ in range(2):
        assert await world.get() == 200
    assert world.sent(UPSTREAM) == [None, basic("me", "s3cret"), basic("me", "s3cret")]


async def test_basic_without_a_challenge() -> None:
    """`auth` "basic" is for registries that answer anonymous requests with 404 or a page instead of a challenge."""
    world = World({**NAMED, "auth": "basic"})
    world.upstream.quirk = lambda request, reply: reply if "authorization" in request.headers else Reply(404)
    assert await world.get() == 200
    assert world.sent(UPSTREAM) == [basic("me", "s3cret")]


@pytest.mark.parametrize("users", [{}, {"me": "s3cret"}], ids=["anonymous", "named"])
async def test_bearer_by_get(users: dict[str, str]) -> None:
    """The token is for pulls of this repository, whatever the challenge's scope is, and is kept until it expires."""
    world = World(NAMED if users else {"registry": UPSTREAM}, users=users)
    world.upstream.challenge = BEARER
    for _ in range(3):
        assert await world.get() == 200
    assert world.tokens.asked == [{"scope": ["repository:team/app:pull"], "service": ["up.example"]}]
    assert await world.get("team/other") == 200
    assert world.tokens.asked[1]["scope"] == ["repository:team/other:pull"]
    world.registry.clock.now += 300
    assert await world.get() == 200
    assert len(world.tokens.asked) == 3
    assert world.sent(TOKEN_SERVER) == [basic("me", "s3cret") if users else None] * 3
    assert all(sent != basic("me", "s3cret") for sent in world.sent(UPSTREAM))


async def test_bearer_by_post() -> None:
    """If the token server refuses GET, OAuth2 is used, with the password in the body and never in the URL."""
    world = World(NAMED, users={"me": "s3cret"}, takes_get=False)
    world.upstream.challenge = BEARER
    assert await world.get() == 200
    (asked,) = world.tokens.asked
    assert asked["grant_type"] == ["password"]
    assert asked["scope"] == ["repository:team/app:pull"]
    assert all("s3cret" not in url for url in world.registry.web.asked)


@pytest.mark.parametrize(("expires_in", "used_after"), [(None, 45), (300, 285)])
async def test_tokens_expire(expires_in: int | None, used_after: int) -> None:
    """Tokens expire after `expires_in`, by default after 60 seconds."""
    world = World({"registry": UPSTREAM}, expires_in=expires_in)
    world.upstream.challenge = BEARER
    assert await world.get() == 200
    world.registry.clock.now += used_after
    assert await world.get() == 200
    assert len(world.tokens.asked) == 1
    world.registry.clock.now += 10
    assert await world.get() == 200
    assert len(world.tokens.asked) == 2


async def test_a_token_that_is_refused_is_replaced_once() -> None:
    """A refused token is replaced by a new one; a second refusal is a denial."""
    world = World({"registry": UPSTREAM})
    world.upstream.challenge = BEARER
    assert await world.get() == 200
    world.upstream.accepted = set()
    assert await world.get() == 200
    world.upstream.quirk = lambda *_: Reply(401, {"www-authenticate": BEARER})
    assert await world.get() == 404
    assert len(world.tokens.asked) == 3


@pytest.mark.parametrize(
    ("challenge", "url"),
    [
        (f"Bearer realm={TOKEN_SERVER}/token,service=up", f"{TOKEN_SERVER}/token?"),
        (
            f'Basic realm="x", Bearer realm="{TOKEN_SERVER}/t?account=a%26b&empty="',
            f"{TOKEN_SERVER}/t?account=a%26b&empty=&",
        ),
        ('Bearer realm="/token"', f"{UPSTREAM}/token?"),
    ],
)
async def test_odd_challenges(challenge: str, url: str) -> None:
    """The realm is unquoted, follows an unsupported challenge, has a query, or is relative."""
    world = World({"registry": UPSTREAM})
    world.upstream.challenge = challenge

    def token(request: WebRequest, reply: Reply) -> Reply:
        if not request.path.startswith("/token"):
            return reply
        world.upstream.accepted = {"Bearer t"}
        return Reply(200, {}, [b'{"token": "t"}'])

    world.upstream.quirk = token
    assert await world.get() == 200
    assert any(asked.startswith(url) for asked in world.registry.web.asked)


@pytest.mark.parametrize(
    ("challenge", "entry", "status", "message"),
    [
        ('Basic realm="x"', {"registry": UPSTREAM}, 404, "asks for credentials and has none in REGISTRIES_JSON"),
        ("Negotiate", NAMED, 502, "asks for credentials of another type"),
        ("", NAMED, 502, "asks for credentials of another type"),
        ('Bearer realm="http://insecure.example/token"', NAMED, 502, "not https"),
        ('Bearer realm="https://["', NAMED, 502, "invalid URL"),
        ('Bearer realm="https://nobody.example/t"', NAMED, 502, " nobody.example, which REGISTRIES_JSON"),
        ('Bearer realm="https://up.example.evil/t"', NAMED, 502, " up.example.evil, which REGISTRIES_JSON"),
        ('Bearer realm="//evil.example/t"', NAMED, 502, " evil.example, which REGISTRIES_JSON"),
        ('Bearer realm="https://auth.example@evil.example/t"', NAMED, 502, "@evil.example, which REGISTRIES_JSON"),
        ('Bearer realm="https://auth.example:8443/t"', NAMED, 502, " auth.example:8443, which REGISTRIES_JSON"),
        (
            'Bearer realm="https://silent.example/t"',
            {**NAMED, "token_server": "https://silent.example"},
            502,
            "refers to silent.example, which cannot be reached",
        ),
        (BEARER, {**NAMED, "username": "you"}, 502, "refused the credentials in REGISTRIES_JSON"),
        (BEARER, {"registry": UPSTREAM}, 404, "gives no token: its token server answered 401"),
    ],
)
async def test_credentials_that_do_not_do(
    challenge: str, entry: Mapping[str, Any], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The answer says what the operator must correct; neither the answer nor the log has the password."""
    world = World(entry, users={"me": "s3cret"})
    world.upstream.challenge = challenge
    answer = await world.registry.call("GET", f"/v2/team/app/blobs/{digest_of(LAYER)}")
    assert answer.status == status
    assert message in json.loads(answer.body)["errors"][0]["message"]
    printed = answer.body.decode() + capsys.readouterr().out
    assert "s3cret" not in printed
    assert base64.b64encode(b"me:s3cret").decode() not in printed


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, {}, [b"<html>"]),
        Reply(200, {}, [b"[]"]),
        Reply(200, {}, [b'{"token": 5}']),
        Reply(200, {}, [b" " * 100_000]),
        Reply(302, {"location": "https://elsewhere.example"}),
        Reply(500),
    ],
)
async def test_a_token_server_that_gives_none(reply: Reply) -> None:
    """The answer is 502 if the token server gives no token."""
    world = World({"registry": UPSTREAM})
    world.upstream.challenge = BEARER

    async def server(request: WebRequest) -> Reply:
        return reply

    world.registry.web.servers[TOKEN_SERVER] = server
    assert await world.get() == 502


# ------------------------------------------------------------------ redirects
async def test_credentials_stay_where_they_belong() -> None:
    """A redirect to a storage host is followed without credentials: its URL has its own, and is not changed."""
    world = World(NAMED)
    world.upstream.challenge = 'Basic realm="there"'
    world.upstream.accepted = {basic("me", "s3cret")}
    location = "https://store.example:8443/a%2Fb?X-Amz-Signature=1%2B2&empty="

    def redirect(request: WebRequest, reply: Reply) -> Reply:
        if reply.status == 200 and "again" not in request.path:
            return Reply(307, {"location": f"{request.path}?again"})  # the first redirect stays on the upstream's host
        return Reply(302, {"location": location}) if reply.status == 200 else reply

    async def store(request: WebRequest) -> Reply:
        return Reply(200, {"content-length": str(len(LAYER))}, [LAYER])

    world.upstream.quirk = redirect
    world.registry.web.servers["https://store.example:8443"] = store
    assert await world.get() == 200
    assert world.sent(UPSTREAM) == [None, basic("me", "s3cret"), basic("me", "s3cret")]
    assert world.sent("https://store.example:8443") == [None]
    assert world.registry.web.asked[-1] == location


async def test_what_is_compressed_on_the_way_has_no_length() -> None:
    """The Content-Length of a compressed answer is not the size of the blob, so it is ignored."""
    world = World({"registry": UPSTREAM})
    headers = {"content-length": "3", "content-encoding": "gzip"}
    world.upstream.quirk = lambda _, reply: Reply(200, headers, reply.chunks)
    assert await world.get() == 200
    assert world.registry.web.requests[0].headers["accept-encoding"] == "identity"


# ------------------------------------------------------------------ Amazon ECR
ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
KEY = AccessKey("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")


@pytest.mark.parametrize(
    ("host", "url", "signature"),
    [
        (
            ECR,
            "https://api.ecr.eu-west-1.amazonaws.com/",
            (
                "eu-west-1/ecr/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-target, "
                "Signature=160c19a801bc557664031ee5a98fd5ba6ca14653ec2627a340479dd4b4faeb15"
            ),
        ),
        (
            "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
            "https://api.ecr.cn-north-1.amazonaws.com.cn/",
            (
                "cn-north-1/ecr/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-target, "
                "Signature=dfdb8895cae538b92494d49a7787d768649ecee1e6706420054be1aca5abbcd8"
            ),
        ),
    ],
)
def test_signature(host: str, url: str, signature: str) -> None:
    """The signature equals botocore's for the same request at the same time."""
    request = token_request(host, KEY, 1795464000.0)  # 2026-11-23T20:00:00Z
    assert request.url == url
    assert request.headers["authorization"] == f"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261123/{signature}"
    assert request.headers["x-amz-date"] == "20261123T200000Z"
    assert "host" not in request.headers


async def test_ecr() -> None:
    """The access key is exchanged for a password, which is used until it expires; the secret key is never sent."""
    world = World({**NAMED, "registry": f"https://{ECR}", "username": KEY.id, "auth": "ecr"})
    world.registry.web.servers[f"https://{ECR}"] = world.upstream
    world.upstream.challenge = f'Basic realm="https://{ECR}/",service="ecr.amazonaws.com"'
    bought = 0

    async def api(request: WebRequest) -> Reply:
        nonlocal bought
        bought += 1
        assert request.method == "POST"
        assert request.headers["x-amz-target"].endswith(".GetAuthorizationToken")
        token = base64.b64encode(f"AWS:{bought}".encode()).decode()
        world.upstream.accepted = {f"Basic {token}"}
        expires = world.registry.clock.now + 12 * 3600
        data = {"authorizationData": [{"authorizationToken": token, "expiresAt": expires, "proxyEndpoint": "x"}]}
        return Reply(200, {}, [json.dumps(data).encode()])

    world.registry.web.servers["https://api.ecr.eu-west-1.amazonaws.com"] = api
    for _ in range(2):
        assert await world.get() == 200
    assert bought == 1
    world.registry.clock.now += 12 * 3600
    assert await world.get() == 200
    assert bought == 2
    assert all("s3cret" not in f"{one.url} {one.headers} {one.body}" for one in world.registry.web.requests)


@pytest.mark.parametrize(
    "answer", [b"", b"{}", b'{"authorizationData": []}', b'{"authorizationData": [{}]}', b"[1]", b"5"]
)
async def test_ecr_that_gives_no_password(answer: bytes) -> None:
    """The answer is 502 if GetAuthorizationToken gives no password."""
    world = World({**NAMED, "registry": f"https://{ECR}", "username": KEY.id, "auth": "ecr"})
    world.registry.web.servers[f"https://{ECR}"] = world.upstream
    world.upstream.challenge = "Basic"

    async def api(request: WebRequest) -> Reply:
        return Reply(200, {}, [answer])

    world.registry.web.servers["https://api.ecr.eu-west-1.amazonaws.com"] = api
    assert await world.get() == 502


async def test_only_the_upstream_itself_can_challenge() -> None:
    """A host that the upstream redirects to gets no password, and no token is fetched for it."""
    world = World(NAMED)
    evil = FakeUpstream(challenge=f'Bearer realm="{TOKEN_SERVER}/token",service="evil"')

    def redirect(request: WebRequest, reply: Reply) -> Reply:
        return Reply(307, {"location": f"https://evil.example{request.path}"})

    world.upstream.quirk = redirect
    world.registry.web.servers["https://evil.example"] = evil
    for challenge in (f'Bearer realm="{TOKEN_SERVER}/token"', 'Basic realm="x"', f'Bearer realm="{UPSTREAM}/token"'):
        evil.challenge = challenge
        answer = await world.registry.call("GET", f"/v2/team/app/blobs/{digest_of(LAYER)}")
        assert (answer.status, answer.codes) == (502, ["UNAVAILABLE"])
        assert b"redirects to evil.example, which asks for credentials" in answer.body
    assert world.sent(TOKEN_SERVER) == []
    assert set(world.sent("https://evil.example")) == set(world.sent(UPSTREAM)) == {None}


@pytest.mark.parametrize("registry", ["https://index.docker.io/v1/", "https://registry.gitlab.com"])
def test_well_known_token_servers(registry: str) -> None:
    """Well-known token servers need no setting."""
    (upstream,) = parse_upstreams(json.dumps([{"registry": registry}]), lambda _: None)
    assert upstream.token_server in {"https://auth.docker.io", "https://gitlab.com"}


@pytest.mark.parametrize(
    "answer",
    [
        {"token": "\U0001f600"},
        {"token": "two words"},
        {"token": "a\r\nX-Evil: 1"},
        {"token": "x" * 65_000},
        {"token": ""},
    ],
)
async def test_tokens_that_no_header_takes(answer: Mapping[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Tokens with characters that a header may not have are refused, and not logged."""
    world = World(NAMED)
    world.upstream.challenge = BEARER

    async def give(request: WebRequest) -> Reply:
        return Reply(200, {}, [json.dumps(answer).encode()])

    world.registry.web.servers[TOKEN_SERVER] = give
    assert await world.get() == 502
    assert "X-Evil" not in capsys.readouterr().out


async def test_a_token_that_never_expires() -> None:
    """A token that never expires is used for a day."""
    world = World(NAMED)
    world.upstream.challenge = BEARER
    world.upstream.accepted = {"Bearer t"}

    async def give(request: WebRequest) -> Reply:
        return Reply(200, {}, [b'{"token": "t", "expires_in": ' + b"9" * 400 + b"}"])

    world.registry.web.servers[TOKEN_SERVER] = give
    assert await world.get() == 200


async def test_a_redirect_back_brings_no_password() -> None:
    """Otherwise the host that redirects would choose which of the upstream's private repositories the client gets."""
    world = World({**NAMED, "auth": "basic"})
    private = f"/v2/private/manifests/{digest_of(b'x')}"

    def redirect(request: WebRequest, reply: Reply) -> Reply:
        return reply if "private" in request.url else Reply(307, {"location": f"https://cdn.example{request.path}"})

    async def back(request: WebRequest) -> Reply:
        return Reply(307, {"location": f"{UPSTREAM}{private}"})

    world.upstream.quirk = redirect
    world.registry.web.servers["https://cdn.example"] = back
    await world.get()
    sent = [one.headers.get("authorization") for one in world.registry.web.requests if "private" in one.url]
    assert sent == [None]
