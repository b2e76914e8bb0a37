"""Tests of the requests that the proxy serves: each row is an attack, or a request that clients need."""

import asyncio
import json
import re
import socket

import httpx
import pytest

from registry_push.command import main
from registry_push.credentials import Credentials
from registry_push.proxy import Proxy
from registry_push.proxy_guard import Guard
from registry_push.references import Registry
from registry_push.token_servers import TokenServers
from tests.fakes.client import ORIGIN
from tests.push.harness import CREDENTIALS
from tests.push.servers import Reply, Servers, ask_proxy
from tests.push.test_proxy import UPLOADS, new_proxy

WHO = pytest.mark.parametrize("credentials", [None, CREDENTIALS])
SECRET_PAGE = b'{"token": "of the inside"}'


def refused(reply: Reply, status: int, code: str) -> str:
    """Check that a reply is a refusal in the specification's format; returns its message."""
    assert (reply.status, reply.headers["content-type"]) == (status, "application/json")
    assert reply.headers["x-content-type-options"] == "nosniff"
    [error] = json.loads(reply.body)["errors"]
    assert error["code"] == code
    return str(error["message"])


TARGETS = [
    # Appended to an address, these lead to another host.
    "//evil.example/x",
    "//evil.example/v2/",
    "///v2/",
    "http://evil.example/x",
    "http://evil.example/v2/",
    "https://registry.example/v2/",
    "http://localhost:5000/v2/",
    "evil.example:443",
    "@evil.example/v2/",
    "user:password@evil.example/v2/",
    "ftp:/v2/",
    # Other paths of the registry's host.
    "",
    "*",
    "/",
    "/token",
    "/v1/_ping",
    "/V2/",
    "/v2x/",
    "/x/v2/",
    "/%76%32/",
    # `..` in the spellings of different servers.
    "/v2/../x",
    "/v2/..",
    "/v2/./x",
    "/v2/a/../../x",
    "/v2/%2e%2e/x",
    "/v2/.%2E/x",
    "/v2/%252e%252e/x",
    "/v2/..;/x",
    "/v2/..;a=b/x",
    "/v2/a%2f..%2f..%2fx",
    "/v2\\..\\x",
    "/v2/..\\x",
    "/v2/%5c..%5cx",
    "/v2/%c0%ae%c0%ae/x",
    # Characters that end a path or a header line early.
    "/v2/x#y",
    "/v2/?x#y",
    "/v2#x",
    "/v2/%00",
    "/v2/%0d%0aX-Evil:1",
    "/v2/x\r\nX-Evil: 1",
    "/v2/x y",
    "/v2/\xe9",
    "/v2/?\xe9",
    "/v2/" + 20_000 * "a",
]


@WHO
@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "PUT"])
@pytest.mark.parametrize("target", TARGETS)
async def test_other_targets(target: str, method: str, credentials: Credentials | None) -> None:
    """No request is sent to any host, and the message says which paths the proxy serves."""
    servers = Servers({"evil.example": lambda request: httpx.Response(200, content=SECRET_PAGE)})
    reply = await ask_proxy(new_proxy(servers, credentials), target, method=method, body=b"x")
    assert "below /v2/" in refused(reply, 404, "UNSUPPORTED")
    assert servers.asked() == set()


@pytest.mark.parametrize(
    "target",
    [
        "/v2",
        "/v2/",
        "/v2/?n=1",
        "/v2/_catalog?n=100&last=a%2Fb",
        "/v2/team/app/manifests/1.0",
        "/v2/team/app/tags/list?last=../x",
        "/v2/team/..app/tags/list",
        "/v2/team/app/blobs/sha256:0123456789abcdef",
        "/v2/team/app/blobs/sha256%3A0123456789abcdef",
        "/v2/team/app/blobs/uploads/0-9_a.z~=?_state=a%2Fb%3D%3D&to=https://x//y",
        "/v2/team/app/manifests/1?ns=docker.io",
    ],
)
async def test_targets_of_clients(target: str) -> None:
    """Targets of real clients reach the registry byte for byte."""
    servers = Servers()
    assert (await ask_proxy(new_proxy(servers), target)).status == 404
    [request] = servers.seen
    assert str(request.url) == f"{ORIGIN}{target}"


NAME = socket.gethostname().lower()
LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"  # noqa: S104 - a row of a table
HOSTS = [
    # As docker, containerd, podman, skopeo, crane and others send it: the host and port of the address.
    (LOOPBACK, "localhost:5000", True),
    (LOOPBACK, "LocalHost:5000", True),
    (LOOPBACK, "localhost.:5000", True),
    (LOOPBACK, "team.localhost:5000", True),
    (LOOPBACK, "127.0.0.1:5000", True),
    (LOOPBACK, "127.0.0.53:5000", True),
    (LOOPBACK, "[::1]:5000", True),
    ("::1", "[::1]:5000", True),
    ("localhost", "localhost:5000", True),
    # A name of --host, with the port of a forwarder to the proxy.
    (LOOPBACK, "host.docker.internal:5000", True),
    (LOOPBACK, "HOST.docker.internal:6000", True),
    (LOOPBACK, "host.docker.internal", True),
    # DNS rebinding: the page's domain resolves to this machine.
    (LOOPBACK, "evil.example", False),
    (LOOPBACK, "evil.example:5000", False),
    (LOOPBACK, "localhost.evil.example:5000", False),
    (LOOPBACK, "evillocalhost:5000", False),
    (LOOPBACK, "127.0.0.1.evil.example:5000", False),
    (LOOPBACK, "127.0.0.1evil:5000", False),
    (LOOPBACK, "evil.host.docker.internal:5000", False),
    (LOOPBACK, "[::1].evil.example:5000", False),
    (LOOPBACK, "localhost:5000@evil.example", False),
    (LOOPBACK, "user@localhost:5000", False),
    (LOOPBACK, "localhost:5000, evil.example", False),
    (LOOPBACK, "localhost:5000/", False),
    (LOOPBACK, "http://localhost:5000", False),
    (LOOPBACK, "localhost:5000 ", False),
    # Another address or port than the proxy's.
    (LOOPBACK, "localhost", False),
    (LOOPBACK, "localhost:6000", False),
    (LOOPBACK, "localhost:", False),
    (LOOPBACK, "0.0.0.0:5000", False),
    (LOOPBACK, "192.168.1.7:5000", False),
    (LOOPBACK, f"{NAME}:5000", False),
    (LOOPBACK, "127.1:5000", False),
    (LOOPBACK, "2130706433:5000", False),
    (LOOPBACK, "0x7f000001:5000", False),
    (LOOPBACK, "", False),
    (LOOPBACK, None, False),
    (EVERYWHERE, "localhost:5000", True),
    (EVERYWHERE, "localhost:6000", True),  # a container's port, published by the machine
    (EVERYWHERE, "192.168.1.7:5000", True),
    (EVERYWHERE, "[fe80::1]:5000", True),
    (EVERYWHERE, f"{NAME}:5000", True),
    (EVERYWHERE, f"{NAME}.local:5000", True),
    (EVERYWHERE, "host.docker.internal:5000", True),
    (EVERYWHERE, "evil.example:5000", False),
    (EVERYWHERE, "192.168.1.7.evil.example:5000", False),
    (EVERYWHERE, None, False),
    ("registry.lan", "registry.lan:5000", True),
    ("registry.lan", "evil.example:5000", False),
]


@WHO
@pytest.mark.parametrize(("listen", "host", "is_served"), HOSTS)
async def test_hosts(listen: str, host: str | None, is_served: bool, credentials: Credentials | None) -> None:
    """The proxy serves the hosts that it listens on, and no other."""
    servers = Servers()
    proxy = new_proxy(servers, credentials)
    proxy.guard = Guard(listen, frozenset({"host.docker.internal"}))
    reply = await ask_proxy(proxy, "/v2/", host=host)
    if is_served:
        assert (reply.status, servers.asked()) == (404, {"registry.example"})
    else:
        assert "--host NAME" in refused(reply, 421, "UNSUPPORTED")
        assert servers.asked() == set()


@WHO
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Origin", "https://evil.example"),
        ("Origin", "null"),
        ("Origin", "http://localhost:5000"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "none"),
        ("Sec-Fetch-Mode", "navigate"),
        ("Sec-Fetch-Dest", "image"),
        ("Sec-CH-UA", '"Chromium"'),
        ("Sec-Purpose", "prefetch"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Access-Control-Request-Method", "PUT"),
        ("Access-Control-Request-Private-Network", "true"),
        ("Upgrade-Insecure-Requests", "1"),
        ("DNT", "1"),
        ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) Safari/605.1.15"),
    ],
)
async def test_browsers(name: str, value: str, credentials: Credentials | None) -> None:
    """A web page in a browser on this machine can neither read nor change anything."""
    servers = Servers()
    for method in ("GET", "POST", "OPTIONS"):
        reply = await ask_proxy(new_proxy(servers, credentials), "/v2/", {name: value}, method=method)
        assert "no browsers" in refused(reply, 403, "DENIED")
        assert not [each for each in reply.headers if each.startswith("access-control-")]
    assert servers.asked() == set()


@pytest.mark.parametrize(
    "agent",
    [
        "docker/28.2.2 go/go1.24.3 kernel/6.1.0 os/linux arch/amd64 UpstreamClient(Docker-Client/28.2.2 \\(linux\\))",
        "containers/5.34.0 (github.com/containers/image)",
        "containerd/2.0.0",
        "crane/0.20.0 go-containerregistry/0.20.0",
        "curl/7.88.1",
        "Go-http-client/1.1",
    ],
)
async def test_agents_of_clients(agent: str) -> None:
    """Headers of registry clients do not count as a browser's; Go clients send a Referer after a redirect."""
    servers = Servers()
    headers = {"User-Agent": agent, "Accept-Encoding": "gzip", "Referer": "http://localhost:5000/v2/"}
    assert (await ask_proxy(new_proxy(servers), "/v2/", headers)).status == 404
    assert servers.seen[0].headers["user-agent"] == agent


OF_REGISTRY = [
    ("Content-Type", "text/html"),
    ("X-Content-Type-Options", "off"),
    ("Content-Security-Policy", "script-src *"),
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Credentials", "true"),
    ("Set-Cookie", "sid=1"),
    ("Docker-Content-Digest", "sha256:0"),
]


@pytest.mark.parametrize(("method", "target"), [("GET", "/v2/"), ("POST", "/v2/a/blobs/uploads/")])
@pytest.mark.parametrize("status", [200, 401, 503, 999])
async def test_answers(method: str, target: str, status: int) -> None:
    """Every response forbids MIME sniffing, scripts and other origins, and sets no cookie."""
    servers = Servers({"registry.example": lambda request: httpx.Response(status, headers=OF_REGISTRY, content=b"<p>")})
    proxy = new_proxy(servers)
    proxy.retries = type(proxy.retries)(1, lambda seconds: asyncio.sleep(0))
    reply = await ask_proxy(proxy, target, method=method)
    assert reply.status == (502 if status == 999 else status)
    assert reply.headers.get_list("x-content-type-options") == ["nosniff"]
    assert reply.headers.get_list("content-security-policy") == ["default-src 'none'; sandbox"]
    assert reply.headers["cross-origin-resource-policy"] == "same-origin"
    assert not {"set-cookie", "access-control-allow-origin", "access-control-allow-credentials"} & set(reply.headers)


@pytest.mark.parametrize(
    ("location", "seen"),
    [
        ("/v2/a/blobs/uploads/1?_state=x%2Fy", "/v2/a/blobs/uploads/1?_state=x%2Fy"),
        ("https://registry.example/v2/a/blobs/uploads/1?_state=x", "/v2/a/blobs/uploads/1?_state=x"),
        ("https://REGISTRY.example:443/v2/a", "/v2/a"),
        ("/elsewhere/1", "https://registry.example/elsewhere/1"),
        ("https://registry.example//evil.example/x", "https://registry.example//evil.example/x"),
        ("//cdn.example/v2/1", "https://cdn.example/v2/1"),
        ("https://cdn.example/1?to=https://registry.example/", "https://cdn.example/1?to=https://registry.example/"),
        ("https://registry.example.evil.example/v2/", "https://registry.example.evil.example/v2/"),
    ],
)
async def test_locations(location: str, seen: str) -> None:
    """Locations of the registry's API lead to the proxy; others stay as the registry gave them."""
    servers = Servers({"registry.example": lambda request: httpx.Response(307, headers={"Location": location})})
    reply = await ask_proxy(new_proxy(servers), "/v2/a/blobs/sha256:0")
    assert (reply.status, reply.headers["location"]) == (307, seen)


async def test_odd_headers_pass() -> None:
    """Header values with non-ASCII bytes pass in both directions."""
    answer = httpx.Response(200, headers=[(b"X-Name", "käse →".encode())])
    servers = Servers({"registry.example": lambda request: answer})
    reply = await ask_proxy(new_proxy(servers), "/v2/", {"X-Name": "k\xe4se", "Cookie": "sid=1"})
    assert reply.status == 200
    assert (b"x-name", "käse →".encode()) in reply.headers.raw
    assert (b"x-name", b"k\xe4se") in [(name.lower(), value) for name, value in servers.seen[0].headers.raw]
    assert "cookie" not in servers.seen[0].headers


async def test_a_session_is_its_clients() -> None:
    """A cookie that the registry sets for one client is not sent for another."""
    servers = Servers({"registry.example": lambda request: httpx.Response(200, headers={"Set-Cookie": "sid=of-ann"})})
    proxy = new_proxy(servers)
    await ask_proxy(proxy, "/v2/", {"Authorization": "Basic YW5uOnB3"})
    await ask_proxy(proxy, "/v2/")
    assert [each.headers.get("cookie") for each in servers.seen] == [None, None]


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize(
    "digest", ["sha256:x/../../../../b", "x%00", "a%20b", "%C3%A9", "sha256%3A0%26mount=1", "x%23"]
)
async def test_a_malformed_digest(digest: str, method: str) -> None:
    """A malformed digest does not become part of a path: the registry gets it unchanged and refuses it."""

    def answer(request: httpx.Request) -> httpx.Response:
        begins = request.method == "POST" and not request.url.query
        return httpx.Response(202 if begins else 404, headers={"Location": f"{UPLOADS}1"} if begins else {})

    servers = Servers({"registry.example": answer})
    proxy = new_proxy(servers)
    await ask_proxy(proxy, UPLOADS, method="POST")
    target = UPLOADS if method == "POST" else f"{UPLOADS}1"
    reply = await ask_proxy(proxy, f"{target}?digest={digest}", method=method, body=b"x")
    assert reply.status == 404
    assert [each.method for each in servers.seen] == ["POST", method]


RAW = [
    (b"GET //evil.example/x HTTP/1.1\r\nHost: {host}", b"404"),
    (b"GET http://evil.example/v2/ HTTP/1.1\r\nHost: {host}", b"404"),
    (b"GET http://{host}/v2/ HTTP/1.1\r\nHost: {host}", b"404"),
    (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: {host}", b"404"),
    (b"GET /v2/ HTTP/1.1\r\nHost: evil.example", b"421"),
    (b"GET /v2/ HTTP/1.1\r\nHost: {host}\r\nHost: evil.example", b"400"),
    (b"GET /v2/ HTTP/1.1", b"400"),
    (b"GET /v2/ HTTP/1.0", b"421"),
    (b"GET /v2/ HTTP/1.1\r\nHost: {host}\r\nOrigin: null", b"403"),
    (b"GET /v2/ HTTP/1.1\r\nHost: {host}", b"200"),
    (b"GET /v2/ HTTP/1.1\r\nHost: localhost:{port}", b"200"),
]


async def test_on_the_wire() -> None:
    """The checks also hold behind uvicorn's parser, on a real port."""
    servers = Servers({"registry.example": lambda request: httpx.Response(200)})
    said: asyncio.Queue[str] = asyncio.Queue()
    proxy = Proxy(
        http=httpx.AsyncClient(transport=servers),
        guard=Guard("127.0.0.1"),
        token_servers=TokenServers(Registry("https", "registry.example")),
        credentials=CREDENTIALS,
        sizes=new_proxy(servers).sizes,
        retries=new_proxy(servers).retries,
        say=said.put_nowait,
        wire=lambda text: None,
    )
    serving = asyncio.create_task(proxy.serve(0))
    found = re.search(r":(\d+),", await said.get())
    assert found is not None
    port = found[1].encode()
    for head, status in RAW:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        request = head.replace(b"{host}", b"127.0.0.1:" + port).replace(b"{port}", port)
        writer.write(request + b"\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        assert answer.split()[1] == status, (head, answer)
        writer.close()
        await writer.wait_closed()
    assert servers.asked() == {"registry.example"}
    assert len(servers.seen) == 2
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


@pytest.mark.parametrize("name", ["evil.example:5000", "a/b", "*", ""])
def test_an_invalid_host_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--host accepts only a host name."""
    with pytest.raises(SystemExit):
        main(["proxy", "--to", "r.example", "--host", name])
    assert "--host" in capsys.readouterr().err
