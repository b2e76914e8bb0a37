"""Credentials go only to the registry and its token server: each row is a registry that tries to divert them."""

import itertools
import json
import random
from pathlib import Path

import httpx
import pytest

from registry_push.answers import location_of, shown
from registry_push.authentication import Authentication
from registry_push.client import Client, new_http
from registry_push.credentials import Credentials
from registry_push.failures import Failure, Refused, Unreachable
from registry_push.references import parse_registry
from registry_push.retries import Retries
from registry_push.sessions import ChunkSizes, Session
from registry_push.slices import whole
from registry_push.token_servers import TokenServers
from tests.push.harness import CREDENTIALS, FakeEdge, Run
from tests.push.servers import BASIC, SECRET, Answering, Servers, ask_proxy, challenging
from tests.push.test_proxy import new_proxy
from tests.push.test_uploads import layout

REGISTRY = "registry.example"
IDENTITY = Credentials(identity_token=SECRET)
BASIC_CHALLENGE = 'Basic realm="x"'


async def no_pause(seconds: float) -> None:
    """Retry without waiting."""


def client_of(
    servers: Servers,
    registry: str = REGISTRY,
    credentials: Credentials | None = CREDENTIALS,
    *,
    named: tuple[str, ...] = (),
    insecure: bool = False,
) -> Client:
    """A client with credentials for a registry."""
    http = new_http(servers)
    parsed = parse_registry(registry, insecure=insecure)
    authentication = Authentication(http, credentials, [], TokenServers(parsed, frozenset(named), insecure))
    return Client(http, parsed.origin, authentication, Retries(1, no_pause))


def bearer(realm: str) -> Answering:
    """A registry whose challenge names a token server."""
    return challenging(f'Bearer realm="{realm}",service="x"')


def giving(token: object, **fields: object) -> Answering:
    """A token server."""
    return lambda request: httpx.Response(200, json={"token": token, **fields})


def to(location: str, status: int = 307) -> Answering:
    """A registry that sends clients elsewhere."""
    return lambda request: httpx.Response(status, headers={"Location": location})


# The registry, the realm in its challenge, the hosts of --token-server, and the host that gets the password.
REALMS = [
    (REGISTRY, f"https://{REGISTRY}/token", (), REGISTRY),
    (REGISTRY, f"https://{REGISTRY}:443/token", (), REGISTRY),
    (REGISTRY, "https://Registry.Example/token?x=y", (), REGISTRY),
    (f"{REGISTRY}:5050", f"https://{REGISTRY}/jwt/auth", (), REGISTRY),
    ("docker.io", "https://auth.docker.io/token", (), "auth.docker.io"),
    ("registry.gitlab.com", "https://gitlab.com/jwt/auth", (), "gitlab.com"),
    (REGISTRY, "https://auth.example/token", ("auth.example",), "auth.example"),
    (REGISTRY, "https://auth.example:8443/token", ("auth.example:8443",), "auth.example:8443"),
    ("localhost:5000", "http://localhost:5000/token", (), "localhost:5000"),
    ("localhost:5000", "http://127.0.0.1:5001/token", ("127.0.0.1:5001",), "127.0.0.1:5001"),
    # Another host.
    (REGISTRY, "https://evil.example/token", (), None),
    (REGISTRY, "https://evil.example/token", ("auth.example",), None),
    (REGISTRY, f"https://{REGISTRY}.evil.example/token", (), None),
    (REGISTRY, f"https://evil.example/{REGISTRY}/token", (), None),
    (REGISTRY, "https://auth.example:8443/token", ("auth.example",), None),
    (REGISTRY, "https://auth.registry.example/token", (), None),
    ("localhost:5000", "http://localhost:5001/token", (), None),
    # A well-known token server of another registry: its token would open the account there.
    (REGISTRY, "https://auth.docker.io/token", (), None),
    ("docker.io", "https://gitlab.com/jwt/auth", (), None),
    ("docker.io", "https://auth.docker.io.evil.example/token", (), None),
    # Invalid URLs, and URLs that people and programs read differently.
    (REGISTRY, f"https://{REGISTRY}@evil.example/token", (), None),
    (REGISTRY, f"https://user:pw@{REGISTRY}/token", (), None),
    (REGISTRY, f"https://evil.example\\\\@{REGISTRY}/token", (), None),
    (REGISTRY, f"//{REGISTRY}/token", (), None),
    (REGISTRY, "/token", (), None),
    (REGISTRY, "", (), None),
    (REGISTRY, "file:///etc/passwd", (), None),
    (REGISTRY, "https://a b/\x7f", (), None),
    # Plain HTTP.
    (REGISTRY, f"http://{REGISTRY}/token", (), None),
    (REGISTRY, "http://auth.example/token", ("auth.example",), None),
    (REGISTRY, "http://localhost/token", ("localhost",), None),
]


@pytest.mark.parametrize("credentials", [CREDENTIALS, IDENTITY])
@pytest.mark.parametrize(("registry", "realm", "named", "told"), REALMS)
async def test_realms(
    registry: str, realm: str, named: tuple[str, ...], told: str | None, credentials: Credentials
) -> None:
    """Only the registry's own host, its well-known server and named hosts get the password; others get no request."""
    host = httpx.URL(parse_registry(registry, insecure=False).origin).netloc.decode()
    servers = Servers({host: bearer(realm)})
    # No server here issues a token.
    with pytest.raises(Refused if told is None else Unreachable) as caught:
        await client_of(servers, registry, credentials, named=named).once("GET", "/v2/")
    assert SECRET not in str(caught.value)
    assert servers.told() == ({told} if told else set())
    assert servers.asked() == {host, *servers.told()}


async def test_a_refused_realm_says_what_to_do() -> None:
    """The message has the option, with the host in its notation."""
    servers = Servers({REGISTRY: bearer("https://auth.example:8443/token")})
    with pytest.raises(Refused, match=r"--token-server auth\.example:8443"):
        await client_of(servers).once("GET", "/v2/")


async def test_without_credentials() -> None:
    """Without credentials any token server is asked, but not over plain HTTP."""
    servers = Servers({REGISTRY: bearer("https://auth.example/token"), "auth.example": giving("the-token")})
    assert (await client_of(servers, credentials=None).once("GET", "/v2/")).status_code == 200
    servers = Servers({REGISTRY: bearer("http://169.254.169.254/token")})
    with pytest.raises(Refused, match="plain HTTP"):
        await client_of(servers, credentials=None).once("GET", "/v2/")
    assert servers.asked() == {REGISTRY}


async def test_insecure() -> None:
    """--insecure allows plain HTTP; it makes no further host trusted."""
    servers = Servers({REGISTRY: bearer(f"http://{REGISTRY}/token")})
    with pytest.raises(Unreachable):
        await client_of(servers, insecure=True).once("GET", "/v2/")
    assert servers.told() == {REGISTRY}
    servers = Servers({REGISTRY: bearer("http://evil.example/token")})
    with pytest.raises(Refused):
        await client_of(servers, insecure=True).once("GET", "/v2/")
    assert servers.asked() == {REGISTRY}


@pytest.mark.parametrize("credentials", [CREDENTIALS, IDENTITY])
async def test_a_token_server_that_redirects(credentials: Credentials) -> None:
    """A token server's redirect is not followed."""
    servers = Servers(
        {REGISTRY: bearer("https://auth.example/token"), "auth.example": to("https://evil.example/token")}
    )
    with pytest.raises(Unreachable, match="without a token"):
        await client_of(servers, credentials=credentials, named=("auth.example",)).once("GET", "/v2/")
    assert servers.asked() == {REGISTRY, "auth.example"}


@pytest.mark.parametrize("challenge", [BASIC_CHALLENGE, 'Bearer realm="https://registry.example/token"'])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_redirect(method: str, challenge: str) -> None:
    """The target of a redirect gets no credentials, and its 401 is not answered."""
    answers = iter([httpx.Response(401, headers={"WWW-Authenticate": BASIC_CHALLENGE})])

    def registry(request: httpx.Request) -> httpx.Response:
        return next(answers, to("https://evil.example/v2/x")(request))

    servers = Servers({REGISTRY: registry, "evil.example": challenging(challenge)})
    response = await client_of(servers).follow(method, "/v2/a/blobs/sha256:0")
    assert response.status_code == 401
    assert servers.told() == {REGISTRY}
    assert [each.headers.get("authorization") for each in servers.seen] == [None, BASIC, None]


@pytest.mark.parametrize(
    "other",
    [
        "https://evil.example",
        f"https://{REGISTRY}:8443",
        f"https://{REGISTRY}.evil.example",
        "https://sub.registry.example",
    ],
)
async def test_an_upload_on_another_host(other: str, tmp_path: Path) -> None:
    """An upload on another host gets the bytes without credentials, and its 401 is not answered."""
    host = httpx.URL(other).netloc.decode()
    servers = Servers({REGISTRY: challenging(BASIC_CHALLENGE), host: challenging(BASIC_CHALLENGE)})
    client = client_of(servers)
    with pytest.raises(Refused):
        await client.once("GET", "/v2/")
    assert servers.told() == {REGISTRY}
    (tmp_path / "blob").write_bytes(b"x")
    session = Session(client, httpx.URL(f"{other}/v2/upload/1"), ChunkSizes())
    with pytest.raises(Refused):
        await session.complete(whole(tmp_path / "blob"), "sha256:0", lambda position: None)
    assert servers.told() == {REGISTRY}
    assert servers.asked() == {REGISTRY, host}


LOCATIONS = [
    f"http://{REGISTRY}/v2/a/blobs/uploads/1",
    "http://169.254.169.254/latest",
    f"https://user:pw@{REGISTRY}/v2/a/blobs/uploads/1",
    "https://user:pw@evil.example/1",
    "ftp://evil.example/1",
    "file:///etc/passwd",
    "mailto:x",
    "https://\x7f/",
]


@pytest.mark.parametrize("location", LOCATIONS)
async def test_locations(location: str, tmp_path: Path) -> None:
    """A location with plain HTTP, with credentials, or malformed gives an error, and no request is sent there."""
    (tmp_path / "blob").write_bytes(b"xy")
    uploads = Servers({REGISTRY: to(location, 202)})
    session = Session(client_of(uploads), httpx.URL(f"https://{REGISTRY}/1"), ChunkSizes(1))
    with pytest.raises(Failure, match="answered with a location"):
        await session.complete(whole(tmp_path / "blob"), "sha256:0", lambda position: None)
    with pytest.raises(Failure, match="answered with a location"):
        location_of(await client_of(uploads).ask("POST", "/v2/a/blobs/uploads/"))
    assert uploads.asked() == {REGISTRY}
    redirects = Servers({REGISTRY: to(location)})
    with pytest.raises(Failure, match=r"answered with a location|location header"):
        await client_of(redirects).follow("GET", "/v2/")
    assert redirects.asked() == {REGISTRY}
    reply = await ask_proxy(new_proxy(Servers({REGISTRY: to(location, 202)})), "/v2/a/blobs/uploads/", method="POST")
    assert (reply.status, b"answered with a location" in reply.body) == (502, True)


@pytest.mark.parametrize("target", ["//evil.example/x", "/v2/../x", "/v2/a?b=//c", "/v2//evil.example/"])
async def test_a_path_is_the_registrys(target: str) -> None:
    """No path leads to another host than the registry's."""
    servers = Servers()
    await client_of(servers).ask("GET", target)
    assert servers.asked() == {REGISTRY}


async def test_no_cookies() -> None:
    """Cookies of a registry are not sent back, to any host."""
    headers = {"Set-Cookie": "sid=1; Path=/"}
    servers = Servers({REGISTRY: lambda request: httpx.Response(200, headers=headers)})
    client = client_of(servers)
    for url in ("/v2/", "/v2/", httpx.URL("https://other.example/")):
        await client.once("GET", url)
    assert {each.headers.get("cookie") for each in servers.seen} == {None}


@pytest.mark.parametrize("host", ["localhost:5000", "127.0.0.1:5000", "[::1]:5000"])
async def test_loopback_needs_no_proxy(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY does not apply to loopback: the proxy would see the password."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://proxy.example:3128")
    async with new_http() as http:
        direct = http._transport  # noqa: SLF001 - httpx has no public way to tell
        assert http._transport_for_url(httpx.URL(f"http://{host}/v2/")) is direct  # noqa: SLF001
        assert http._transport_for_url(httpx.URL("http://registry.example/")) is not direct  # noqa: SLF001


async def test_tokens_without_end() -> None:
    """A registry that refuses every new token ends in an error, not in an endless loop."""
    tokens = (f"token-{number}" for number in itertools.count())
    servers = Servers(
        {
            REGISTRY: bearer("https://auth.example/token"),
            "auth.example": lambda request: httpx.Response(200, json={"token": next(tokens)}),
        }
    )
    with pytest.raises(Refused, match="refuses the tokens"):
        await client_of(servers, named=("auth.example",)).once("GET", "/v2/")
    assert len(servers.seen) < 10


BAD_TOKENS = [
    giving("a\r\nX-Evil: 1"),
    giving("a b"),
    giving("tökèn"),
    giving("x" * 100_000),
    giving(["secret-token"]),
    giving({"secret-token": 1}),
    giving(7),
    giving(""),
    giving("t", expires_in=10**400),
    giving("t", expires_in=[1]),
    giving("t", expires_in="soon"),
    lambda request: httpx.Response(200, content=b'["secret-token"]'),
    lambda request: httpx.Response(200, content=b'{"token": "secret-token'),
    lambda request: httpx.Response(500, content=b'{"token": "secret-token"}'),
]


@pytest.mark.parametrize("answer", BAD_TOKENS)
async def test_bad_tokens(answer: Answering) -> None:
    """A malformed response of a token server gives an error without the response's text."""
    servers = Servers({REGISTRY: bearer("https://auth.example/"), "auth.example": answer})
    with pytest.raises(Unreachable, match="without a token") as caught:
        await client_of(servers, named=("auth.example",)).once("GET", "/v2/")
    assert "secret-token" not in str(caught.value)


@pytest.mark.parametrize(
    "challenge", ["Bearer", "Bearer realm", "Bearer realm=", 'Bearer realm=",', "Bearer =,=", "=", ""]
)
async def test_bad_challenges(challenge: str) -> None:
    """A malformed challenge gives an error."""
    servers = Servers({REGISTRY: challenging(challenge)})
    with pytest.raises(Refused):
        await client_of(servers).once("GET", "/v2/")


@pytest.mark.parametrize("value", ["9" * 5000, "-1", "1e3", "", "٣"])
async def test_sizes_that_are_none(value: str) -> None:
    """A malformed chunk size is ignored."""
    sizes = ChunkSizes()
    before = sizes.largest
    sizes.learn(httpx.Headers([(name, value.encode()) for name in (b"OCI-Chunk-Max-Length", b"OCI-Chunk-Min-Length")]))
    assert sizes.largest == before


# ---------------------------------------------------------------------- output
@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("/v2/a/blobs/uploads/0123456789abcdef?state=secret", "/v2/a/blobs/uploads/01234567..."),
        ("/v2/a/blobs/uploads/0123456789abcdef#secret", "/v2/a/blobs/uploads/01234567..."),
        ("https://ann:secret@r.example/v2/?x", "https://r.example/v2/"),
        ("//ann:secret@r.example/x", "//r.example/x"),
        ("/v2/?token=secret", "/v2/"),
    ],
)
def test_addresses(url: str, seen: str) -> None:
    """No message has a session's ID, a query or credentials."""
    assert shown(url) == seen


async def test_an_error_that_quotes_a_header() -> None:
    """The error of h11 about a malformed header quotes the header; our message does not."""

    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.LocalProtocolError("Illegal header value b'Bearer secret-token'")

    with pytest.raises(Unreachable) as caught:
        await client_of(Servers({REGISTRY: answer})).ask("GET", "/v2/")
    assert "secret-token" not in str(caught.value)


@pytest.mark.parametrize("troubles", [0, 12])
async def test_nothing_secret_is_said(troubles: int, tmp_path: Path) -> None:
    """The lines of --verbose, with or without faults, have no password, no token and no usable session."""
    edge = FakeEdge(trouble=random.Random(troubles), troubles=troubles)
    run = Run(edge, tmp_path, chunk_size=700)
    await run.push(layout(tmp_path, b"x" * 3000))
    await edge.settle()
    said = [json.loads(each)["text"] for each in run.events if '"message"' in each] + run.wire
    sessions = {each.partition("/uploads/")[2].partition("?")[0] for each in edge.seen if "/uploads/" in each} - {""}
    assert sessions
    assert len(run.wire) == len(edge.seen)
    for line in [*said, *run.events]:
        assert SECRET not in line
        assert "Basic " not in line
        assert "?" not in line
        assert not [each for each in sessions if each in line]


async def test_nothing_secret_is_said_by_the_proxy() -> None:
    """The proxy's lines and those of --verbose have no secrets."""
    lines: list[str] = []
    edge = FakeEdge()
    proxy = new_proxy(edge, CREDENTIALS)
    proxy.say = proxy.wire = lines.append
    begun = await ask_proxy(proxy, "/v2/team/app/blobs/uploads/", method="POST")
    location = begun.headers["location"]
    await ask_proxy(proxy, location, method="PATCH", body=b"x")
    await ask_proxy(proxy, location, {"Content-Range": "7-7"}, method="PATCH", body=b"x")
    await ask_proxy(proxy, f"http://ann:{SECRET}@localhost:5000{location}", {"Authorization": BASIC})
    await ask_proxy(proxy, location, {"Authorization": BASIC, "Origin": "null"}, method="PATCH", body=b"x")
    name = location.partition("/uploads/")[2].partition("?")[0]
    assert len(lines) > 5
    for line in lines:
        assert not [each for each in (SECRET, name, BASIC, BASIC[6:]) if each in line], line
