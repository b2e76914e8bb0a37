"""Untrusted JSON that is deep, wide, large or malformed gives an error message from every source, no stack trace."""

import ast
import json
import os
import stat
import sys
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry_push.answers import read_answer, refusal
from registry_push.authentication import Authentication
from registry_push.cache import Cache
from registry_push.client import new_http
from registry_push.compression import Compression
from registry_push.credentials import find
from registry_push.failures import Failure, Misused
from registry_push.images import INDEX, MANIFEST
from registry_push.progress import JsonLines, Lines
from registry_push.references import parse_registry
from registry_push.sources import Loader
from registry_push.token_servers import TokenServers
from registry_push.untrusted_json import DEEPEST, LARGEST_DOCUMENT, MOST_VALUES, read_json
from tests.clients.images import MIB, OciLayout, digest_of, layer, tarball

PUSH = Path(__file__).parents[2] / "push/src/registry_push"
DEEP = 200_000

HOSTILE = [
    pytest.param(b"[" * DEEP, id="deep"),
    pytest.param(b'{"a":' * DEEP, id="deep objects"),
    pytest.param(b'{"auths": ' + b"[" * DEEP + b"]" * DEEP + b"}", id="deep inside"),
    pytest.param(b'["\\"[", ' * 500 + b"]" * 500, id="deep behind strings"),
    pytest.param(b"[" + b"{}," * 500_000 + b"{}]", id="wide"),
    pytest.param(b'{"auths": {' + b",".join(b'"%d":0' % at for at in range(150_000)) + b"}}", id="wide object"),
    pytest.param(b'"' + b"a" * (LARGEST_DOCUMENT + 1) + b'"', id="large"),
    pytest.param(b" " * 20 * MIB, id="blank"),
    pytest.param(b'"' * 1_000_001, id="quotes"),
    pytest.param(b'"\\' * 1_000_000, id="backslashes"),
    pytest.param(b"9" * 100_000, id="long number"),
    pytest.param(b"\xff\xfe[\x00", id="UTF-16"),
    pytest.param(b"\xff", id="no text"),
    pytest.param(b"", id="nothing"),
    pytest.param(b"[]", id="a list"),
    pytest.param(b"7", id="a number"),
    pytest.param(b'{"auths": 7, "manifests": 7, "errors": 7, "token": 7}', id="other types"),
    pytest.param(b'[{"Config": 7, "Layers": 7}]', id="other types in a list"),
    pytest.param(b'{"manifests": [7]}', id="no descriptor"),
    pytest.param(b"[7]", id="no entry"),
]
EVERY = pytest.mark.parametrize("content", HOSTILE)


@EVERY
def test_a_configuration_file(content: bytes, tmp_path: Path) -> None:
    """The message names docker's config.json."""
    (tmp_path / "config.json").write_bytes(content)
    environment = {"HOME": "/nowhere", "DOCKER_CONFIG": str(tmp_path)}
    if content == b'{"manifests": [7]}':
        assert find("r.example", "app", environment) is None, "this content is valid in a configuration file"
        return
    with pytest.raises(Misused, match=r"config\.json"):
        find("r.example", "app", environment)


@EVERY
def test_a_credential_helper(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the helper whose output is malformed."""
    (tmp_path / "answer").write_bytes(content)
    helper = tmp_path / "docker-credential-mine"
    helper.write_text(f"#!/bin/sh\nexec cat {tmp_path}/answer\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "config.json").write_text('{"credsStore": "mine"}')
    with pytest.raises(Misused, match="docker-credential-mine"):
        find("r.example", "app", {"HOME": "/nowhere", "DOCKER_CONFIG": str(tmp_path)})


def test_a_helper_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A helper with endless output is killed, and its output is not kept in memory."""
    helper = tmp_path / "docker-credential-mine"
    helper.write_text("#!/bin/sh\nexec yes\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "config.json").write_text('{"credsStore": "mine"}')
    with pytest.raises(Misused, match="docker-credential-mine"):
        find("r.example", "app", {"HOME": "/nowhere", "DOCKER_CONFIG": str(tmp_path)})


@pytest.mark.parametrize("output", ["", ">&2"])
def test_a_helper_that_fails_with_a_secret(output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message does not repeat output that has a secret."""
    helper = tmp_path / "docker-credential-mine"
    helper.write_text(f'#!/bin/sh\necho \'{{"Username": "ann", "Secret": "of-ann"}}\' {output}\nexit 1\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "config.json").write_text('{"credsStore": "mine"}')
    with pytest.raises(Misused, match="exit code 1") as caught:
        find("r.example", "app", {"HOME": "/nowhere", "DOCKER_CONFIG": str(tmp_path)})
    assert "of-ann" not in str(caught.value)


@pytest.fixture
def loader(tmp_path: Path) -> Loader:
    """A loader with an empty cache."""
    with (tmp_path / "said").open("w") as said:
        return Loader(Cache(tmp_path / "cache"), Compression(), JsonLines(said))


def put(layout: OciLayout, content: bytes) -> str:
    """Add a blob to a layout; returns its digest."""
    digest = digest_of(content)
    (layout.folder / "blobs/sha256" / digest[7:]).write_bytes(content)
    return digest


@EVERY
def test_images(content: bytes, tmp_path: Path, loader: Loader) -> None:
    """Malformed indexes, manifests and manifest.json files, in a folder and in an archive, give an error."""
    layout = OciLayout(tmp_path / "layout")
    layout.tag("1", layout.add_image([layer("a", 10)]))
    archive = tmp_path / "image.tar"

    def refused(index: bytes) -> None:
        (layout.folder / "index.json").write_bytes(index)
        blobs = {f"blobs/sha256/{path.name}": path.read_bytes() for path in (layout.folder / "blobs/sha256").iterdir()}
        archive.write_bytes(tarball({"index.json": index, **blobs}))
        for source in (f"oci:{layout.folder}", f"oci-archive:{archive}"):
            with pytest.raises(Misused):
                loader.load(source, "app:1")

    refused(content)
    digest = put(layout, content)
    for media_type in (MANIFEST, INDEX):
        entry = {"mediaType": media_type, "digest": digest, "size": len(content)}
        refused(json.dumps({"manifests": [entry]}).encode())
    archive.write_bytes(tarball({"manifest.json": content}))
    with pytest.raises(Misused):
        loader.load(f"docker-archive:{archive}", "app:1")


def test_a_config_that_is_huge(tmp_path: Path, loader: Loader) -> None:
    """The config of a docker archive is read into memory, so a huge one is refused."""
    entry: list[dict[str, object]] = [{"Config": "c", "RepoTags": None, "Layers": []}]
    members = {"manifest.json": json.dumps(entry).encode(), "c": b" " * (LARGEST_DOCUMENT + 1)}
    (tmp_path / "image.tar").write_bytes(tarball(members))
    with pytest.raises(Misused, match="too many for the config"):
        loader.load(f"docker-archive:{tmp_path / 'image.tar'}", "app:1")


@pytest.mark.parametrize(("width", "depth"), [(2000, 1), (8, 7)])
def test_indexes_that_multiply(width: int, depth: int, tmp_path: Path, loader: Loader) -> None:
    """A few indexes that name each other many times do not become millions of manifests."""
    layout = OciLayout(tmp_path / "layout")
    descriptor = layout.add_image([layer("a", 10)])
    for _ in range(depth):
        content = json.dumps({"mediaType": INDEX, "manifests": [descriptor] * width}).encode()
        descriptor = {"mediaType": INDEX, "digest": put(layout, content), "size": len(content)}
    (layout.folder / "index.json").write_text(json.dumps({"manifests": [descriptor]}))
    with pytest.raises(Misused, match="more than 1000 manifests"):
        loader.load(f"oci:{layout.folder}", "app:1")


@pytest.mark.parametrize(
    "digest", ["sha256:../../../secret", "../v2:x", "sha256:a&from=other", "sha256:\x1b[2J", "sha256", "", "a:b/c", 7]
)
@pytest.mark.parametrize("kind", ["oci", "oci-archive"])
def test_malformed_digests(kind: str, digest: object, tmp_path: Path, loader: Loader) -> None:
    """Digests become paths of files and requests, so a malformed one in an untrusted image is refused."""
    layout = OciLayout(tmp_path / "layout")
    image: dict[str, Any] = {"mediaType": MANIFEST, "config": {"digest": digest}, "layers": []}
    descriptor = {"mediaType": MANIFEST, "digest": put(layout, json.dumps(image).encode())}
    blobs = {f"blobs/sha256/{path.name}": path.read_bytes() for path in (layout.folder / "blobs/sha256").iterdir()}
    index = json.dumps({"manifests": [descriptor]}).encode()
    (layout.folder / "index.json").write_bytes(index)
    archive = tmp_path / "image.tar"
    named = f"blobs/{str(digest).replace(':', '/')}"
    archive.write_bytes(tarball({"index.json": index, named: b"{}", **blobs}))
    source = f"oci:{layout.folder}" if kind == "oci" else f"oci-archive:{archive}"
    with pytest.raises(Misused, match="is not a digest"):
        loader.load(source, "app:1")


class Body(httpx.AsyncByteStream):
    """An endless body that counts the bytes read from it."""

    def __init__(self, *blocks: bytes, times: int = 1) -> None:
        self.blocks = blocks
        self.times = times
        self.sent = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the bytes."""
        for _ in range(self.times):
            for block in self.blocks:
                self.sent += len(block)
                yield block


def answering(body: Body, status: int = 200, **headers: str) -> httpx.MockTransport:
    """A server with one response."""
    return httpx.MockTransport(lambda request: httpx.Response(status, headers=headers, stream=body))


@EVERY
async def test_a_token_server(content: bytes) -> None:
    """A malformed or too large response of a token server gives an error."""
    challenge = {"WWW-Authenticate": 'Bearer realm="https://r.example/token"'}
    refusing = httpx.Response(401, headers=challenge, request=httpx.Request("GET", "https://r.example/v2/"))
    servers = TokenServers(parse_registry("r.example", insecure=False))
    authentication = Authentication(new_http(answering(Body(content))), None, [], servers)
    with pytest.raises(Failure, match=r"r\.example answered"):
        await authentication.answer(refusing, None)


@EVERY
async def test_the_words_of_a_registry(content: bytes) -> None:
    """A malformed error body is left out of the message; a too large one gives an error of its own."""
    async with new_http(answering(Body(content), 400)) as http:
        response = await http.send(http.build_request("GET", "https://r.example/v2/"), stream=True)
        if len(content) > LARGEST_DOCUMENT:
            with pytest.raises(Failure, match="more than"):
                await read_answer(response)
        else:
            assert str(refusal(await read_answer(response), "x")) == "x: the registry answered 400 Bad Request"


async def test_an_answer_without_end() -> None:
    """An endless response is read only up to the limit."""
    body = Body(b"x" * 65_536, times=10**9)
    async with new_http(answering(body)) as http:
        response = await http.send(http.build_request("GET", "https://r.example/v2/"), stream=True)
        with pytest.raises(Failure, match="more than"):
            await read_answer(response)
    assert body.sent <= LARGEST_DOCUMENT + 65_536


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "gzip, gzip"])
async def test_an_answer_that_is_compressed(encoding: str) -> None:
    """A compressed response, which no request accepts, is not unpacked."""
    body = Body(b"x" * 1000)
    async with new_http(answering(body, 413, **{"Content-Encoding": encoding})) as http:
        request = http.build_request("GET", "https://r.example/v2/")
        assert request.headers["accept-encoding"] == "identity"
        answer = await read_answer(await http.send(request, stream=True))
    assert (answer.status_code, answer.content, body.sent) == (413, b"", 0)
    assert "content-encoding" not in answer.headers


@EVERY
def test_notes(content: bytes, tmp_path: Path) -> None:
    """A malformed note in the cache counts as missing."""
    cache = Cache(tmp_path / "cache")
    cache.note("x", {"location": "y"})
    [note] = (tmp_path / "cache/notes").iterdir()
    note.write_bytes(content)
    assert not {"location", "digest"} & set(cache.recall("x"))


# ---------------------------------------------------------------------- read_json
def nested(depth: int) -> bytes:
    """Nested arrays."""
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (nested(DEEPEST + 1), "nested more than 100 levels deep"),
        (b'{"a":' * (DEEPEST + 1) + b"1" + b"}" * (DEEPEST + 1), "nested more than 100 levels deep"),
        (b'["\\\\", ' + nested(DEEPEST) + b"]", "nested more than 100 levels deep"),
        (b"[" + b"1," * MOST_VALUES + b"1]", "more than 100000 values"),
        (b"[" + b"[]," * MOST_VALUES + b"[]]", "more than 100000 values"),
        (b" " * (LARGEST_DOCUMENT + 1), "more than 4194304 bytes"),
    ],
)
def test_bounds(content: bytes, words: str) -> None:
    """A document that exceeds a limit never reaches the parser, and the message names the limit."""
    with pytest.raises(ValueError, match=words):
        read_json(content)


@pytest.mark.parametrize(
    "value",
    [
        json.loads(nested(DEEPEST)),
        ["[" * 1000, "{" * 1000, '"[' * 1000, "\\" * 999 + "[", "," * 200_000],
        {"a": [1, -2.5e3, None, True, "\u2028\U0001f600"]},
        "x" * (LARGEST_DOCUMENT - 5),
    ],
)
def test_what_is_within_bounds(value: object) -> None:
    """Brackets in strings do not count; a byte order mark is accepted."""
    text = json.dumps(value).encode()
    assert read_json(text) == value
    assert read_json(b"\xef\xbb\xbf" + text) == value


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_values(value: object) -> None:
    """The output of the json module is read back unchanged."""
    for ensure_ascii in (True, False):
        text = json.dumps(value, ensure_ascii=ensure_ascii)
        assert read_json(text.encode("utf-8", "surrogatepass")) == value


@settings(deadline=None)
@given(st.text('[]{}",\\:1 au') | st.binary())
def test_anything(content: str | bytes) -> None:
    """Any input gives a value or a ValueError."""
    data = content.encode() if isinstance(content, str) else content
    try:
        expected = json.loads(data.decode("utf-8-sig"))
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011 - of any kind
            read_json(data)
    else:
        assert read_json(data) == expected


def test_memory() -> None:
    """The largest document within the limits takes little memory."""
    content = b"[" + b"{}," * (MOST_VALUES // 2 - 1) + b"{}]"
    tracemalloc.start()
    read_json(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * MIB


def test_one_reader() -> None:
    """Only untrusted_json parses JSON."""
    for path in PUSH.glob("*.py"):
        if path.name == "untrusted_json.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "json":
                assert node.attr in ("dumps", "dump"), f"{path.name}:{node.lineno}"
            if isinstance(node, ast.ImportFrom):
                assert node.module != "json", f"{path.name}:{node.lineno}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                assert node.func.attr != "json", f"{path.name}:{node.lineno}: a response's own"


# ---------------------------------------------------------------------- messages of others
def test_messages_do_not_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences in a registry's message or an archive's names are not printed; long messages are cut."""
    errors = json.dumps({"errors": [{"message": "\x1b[2J\x9b31m\rdone\x07" + "x" * 10_000}]}).encode()
    words = str(refusal(httpx.Response(400, content=errors), "pushing"))
    lines = Lines(sys.stdout, sys.stderr)
    lines.fail(words, 1)
    lines.end("push \x1b]0;evil\x07", words)
    lines.result("r.example/app:1", "sha256:0", {})
    shown = capsys.readouterr()
    assert shown.out == "r.example/app:1@sha256:0\n"
    assert not [each for each in shown.err if not each.isprintable() and each != "\n"]
    assert len(shown.err) < 2000


# ---------------------------------------------------------------------- the cache
@pytest.fixture
def umask() -> Any:
    """Set the most permissive umask."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    """The permissions of a folder and of everything in it."""
    return {str(path): stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}


def use(folder: Path) -> Cache:
    """Open a cache and put something of each kind into it."""
    cache = Cache(folder)
    (cache.scratch / "blob").write_bytes(b"layer")
    cache.add(cache.scratch / "blob", digest_of(b"layer"))
    cache.note("x", {"location": "secret"})
    return cache


def test_the_cache_is_its_owners(umask: Any, tmp_path: Path) -> None:
    """Only the owner can read layers and the URLs of upload sessions, with any umask."""
    cache = use(tmp_path / "new/cache")
    for path, mode in modes(tmp_path / "new/cache").items():
        assert mode & 0o077 == 0, path
    cache.close()


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o500])
def test_a_cache_of_an_earlier_version(mode: int, umask: Any, tmp_path: Path) -> None:
    """Opening a cache of an earlier version makes its folders private."""
    for path in (tmp_path / "cache/blobs", tmp_path / "cache/notes", tmp_path / "cache"):
        path.mkdir(0o777, parents=True, exist_ok=True)
    for path in (tmp_path / "cache/blobs", tmp_path / "cache/notes", tmp_path / "cache"):
        path.chmod(mode)
    use(tmp_path / "cache").close()
    for path in (tmp_path / "cache", tmp_path / "cache/blobs", tmp_path / "cache/notes"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_cache_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that another user can write is not used, since that user could replace the layers."""

    def refuse(path: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(Misused, match="pass --cache with a folder of your own"):
        Cache(tmp_path / "cache")
