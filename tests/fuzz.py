"""Fuzzes every parser of untrusted input and of settings with mutations of valid inputs.

`python -m tests.fuzz` runs COUNT inputs (1,000,000) from SEED (1); tests/unit/test_fuzz.py runs some in every test run.
The same inputs run in workerd's Pyodide (tests/workerd/fuzz.mjs), since some crash its interpreter but not CPython.
"""

import base64
import contextlib
import io
import os
import random
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from registry.access.public_keys import parse_key_set
from registry.access.scopes import parse_scopes
from registry.access.signed_tokens import read_token
from registry.api.sealed_cursors import seal, unseal
from registry.settings import read_settings
from registry.spec.challenges import parse_challenges
from registry.spec.errors import RegistryError
from registry.spec.manifest_format import parse_manifest
from registry.spec.manifest_references import pack, references_of, unpack
from registry.spec.paths import parse
from registry.spec.ranges import content_range, parse_chunk_range, parse_ranges
from registry.spec.untrusted_json import read_json
from registry.upstream import ecr

# Size in characters of the inputs that look for quadratic run time, and the ratio of the longer inputs to them.
LONG = 8 * 1024
LARGER = 16
DEEP = 20_000  # repetitions in inputs that look for recursion
_DEEP_SHARE = 0.1  # of the inputs that could be deep; low, since each takes a thousand times as long as another one
_SIZE = 1000  # bytes of the blob for the tested ranges
_KEY = b"k" * 32
_SEALED = ("a session", "")  # the only texts that `unseal` may return: sealing another one needs the key
_DIGEST = "sha256:" + "ab" * 32
_TOKEN = re.compile(r"[A-Za-z0-9]+|.", re.DOTALL)
_NASTY = (
    *(
        "\0",
        "\t",
        "\r\n",
        " ",
        "é",
        "²",
        "\U0001f600",
        "%",
        "%2F",
        "%ff",
        "..",
        "//",
        "?",
        "&",
        "#",
        ",",
        ";",
        "=",
        "-",
    ),
    *("*", "**", '"', "\\", "[", "]", "{", "}", ":", "null", "true", "NaN", "1e999", "-1", "9" * 30, "9" * 5000),
)
_REPEATED = (*'[{",=a/%\\ -.*:(', "a,", 'a="', "*/", '{"a":', '\\"', "**/", "a/", "Basic ", "%2e", "é")


def _path(text: str) -> None:
    method, _, url = text.partition(" ")
    path, _, query = url.partition("?")
    parse(method, path, query)


def _range(text: str) -> None:
    parts = parse_ranges(text, _SIZE)
    assert sum(part.length or 0 for part in parts) <= _SIZE, text
    for part in parts:
        first, last = re.fullmatch(rf"bytes (\d+)-(\d+)/{_SIZE}", content_range(part, _SIZE)).groups()  # type: ignore[union-attr]
        assert 0 <= int(first) <= int(last) < _SIZE, text


def _chunk_range(text: str) -> None:
    chunk = parse_chunk_range(text)
    assert chunk is None or 0 <= chunk.start < chunk.end, text


def _manifest(text: str) -> None:
    manifest = parse_manifest(text.encode(errors="surrogatepass"), None)
    references = references_of(manifest)
    packed = pack(references)
    assert packed is None or unpack(packed, references.subject) == references, text


def _segment(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode(errors="surrogatepass")).decode().rstrip("=")


def _token(text: str) -> None:
    """Parse a token with this text as its claims, and one with it as its header."""
    header = _segment('{"alg":"ES256"}')
    read_token(f"{header}.{_segment(text)}.c2ln")
    read_token(f"{_segment(text)}.{header}.c2ln")


def _keys(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_key_set(read_json(text, 256 * 1024))


def _ecr(text: str) -> None:
    with contextlib.suppress(ValueError):
        ecr.read_token(text.encode(errors="surrogatepass"))


def _sealed(text: str) -> None:
    found = unseal(_KEY, text)
    assert found in {None, *_SEALED}, text


def _setting(name: str) -> Callable[[str], None]:
    def run(text: str) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            read_settings(lambda asked: text if asked == name else "secret" if asked == "TOKEN" else None)

    return run


@dataclass(frozen=True, slots=True)
class Target:
    """A parser, and valid inputs that cover it. It must return a value or raise RegistryError with a 4xx."""

    run: Callable[[str], object]
    corpus: tuple[str, ...]


TARGETS = {
    "path": Target(
        _path,
        (
            "GET /v2/",
            f"GET /v2/a/b/manifests/{_DIGEST}",
            "PUT /v2/a/manifests/1.0?tag=2",
            f"POST /v2/a/b/blobs/uploads/?mount={_DIGEST}&from=c/d",
            f"POST /v2/a/blobs/uploads/?digest={_DIGEST}&digest-algorithm=sha512",
            "PATCH /v2/a/blobs/uploads/0123456789abcdef?entry=1&offset=2",
            f"GET /v2/a/referrers/{_DIGEST}?artifactType=a/b",
            "GET /v2/a/tags/list?n=10&last=x",
            "GET /v2/_catalog?n=1",
            "POST /v2/a/gc?mode=untagged&grace=1&dry_run=true",
            "GET /v2/token?scope=repository:a:pull&service=x",
            "GET /healthz",
        ),
    ),
    "Range": Target(_range, ("bytes=0-1", "bytes=5-", "bytes=-5", "bytes=0-1,3-4", "bytes=999-1000", "lines=1-2")),
    "Content-Range": Target(_chunk_range, ("0-1", "5-5", "bytes 0-1/10", "999999999999999-1")),
    "WWW-Authenticate": Target(
        parse_challenges,
        (
            'Bearer realm="https://a/t",service="s",scope="repository:a:pull"',
            'Basic realm="a\\"b", Bearer realm=x',
            "Basic",
        ),
    ),
    "manifest": Target(
        _manifest,
        (
            (
                '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"a/b",'
                f'"digest":"{_DIGEST}","size":2}},"layers":[{{"mediaType":"c/d","digest":"{_DIGEST}","size":3}}],'
                f'"subject":{{"mediaType":"a/b","digest":"{_DIGEST}","size":1}},"annotations":{{"a":"b"}}}}'
            ),
            (
                '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"a/b",'
                f'"digest":"{_DIGEST}","size":9,"platform":{{"os":"linux"}}}}]}}'
            ),
            '{"schemaVersion":1,"name":"a","tag":"b","fsLayers":[{"blobSum":"' + _DIGEST + '"}],"history":[]}',
        ),
    ),
    "references": Target(lambda text: unpack(text, ""), ("", "abcd|efgh", "a" * 100)),
    "JWT": Target(
        read_token,
        (
            "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln",
            "eyJhbGciOiJub25lIn0.e30.",
            "eyJhbGciOiJFUzI1NiIsImFsZyI6Im5vbmUifQ.W10.AA",
        ),
    ),
    "claims": Target(
        _token,
        (
            '{"sub":"a","exp":1.5e9,"capabilities":["pull"],"access":[{"type":"repository","name":"a","actions":["*"]}]}',
            '{"iss":"https://i","aud":["a","b"],"nbf":1,"iat":-1,"exp":9e99}',
        ),
    ),
    "key set": Target(
        _keys,
        (
            '{"keys":[{"kty":"EC","crv":"P-256","x":"a","y":"b","kid":"1","use":"sig","key_ops":["verify"]}]}',
            '{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","alg":"RS256"},{"kty":"OKP","crv":"Ed25519","x":"a"}]}',
        ),
    ),
    "ECR": Target(_ecr, ('{"authorizationData":[{"authorizationToken":"QUJD","expiresAt":1.8e9}]}',)),
    "scope": Target(lambda text: parse_scopes([text]), ("repository:a/b:pull,push", "registry:catalog:*", "x")),
    "sealed": Target(_sealed, (*(seal(_KEY, text) for text in _SEALED), "00")),
    "REGISTRIES_JSON": Target(
        _setting("REGISTRIES_JSON"),
        (
            '[{"registry":"https://index.docker.io/","prefix":"hub","include":["a/**"],"timeout":3,"serve_stale":true}]',
            '[{"registry":"https://a.example/p","username":"u","password_env":"TOKEN","auth":"basic","revalidate":9}]',
        ),
    ),
    "ACCOUNTS_JSON": Target(
        _setting("ACCOUNTS_JSON"),
        (
            '[{"name":"a","secret":"sha256:'
            + "ab" * 32
            + '","permissions":{"team/**":["pull","push"],"*":["delete"]}}]',
        ),
    ),
    "OIDC_ISSUERS_JSON": Target(
        _setting("OIDC_ISSUERS_JSON"),
        (
            (
                '[{"issuer":"https://i","jwks":"https://i/k","audience":"a","session":60,"rules":[{"claims":{"r":["a","b*"]},'
                '"permissions":{"a/**":["pull"]}}]}]'
            ),
        ),
    ),
    "RETENTION_JSON": Target(
        _setting("RETENTION_JSON"),
        ('[{"repositories":"a/**","keep_newest":1,"keep_days":2,"keep_tags":["v*"],"delete_untagged_after_days":7}]',),
    ),
    "JWT_REGISTRY_TOKENS_PUBLIC_KEY": Target(
        _setting("JWT_REGISTRY_TOKENS_PUBLIC_KEY"),
        (
            "eyJrdHkiOiJFQyIsImNydiI6IlAtMjU2IiwieCI6ImEiLCJ5IjoiYiJ9",
            "eyJrZXlzIjpbXX0=",
            "LS0tLS1CRUdJTiBQVUJMSUMgS0VZLS0tLS0=",
        ),
    ),
    "ANONYMOUS_PULL": Target(_setting("ANONYMOUS_PULL"), ("public/**, base", "*/a-*", "**/x/**")),
    "CORS_ORIGINS": Target(_setting("CORS_ORIGINS"), ("https://ui.example.com", "*", "http://a:1, https://[::1]:2")),
}


def generate(rng: random.Random, corpus: tuple[str, ...]) -> str:
    """An input of the corpus with up to four mutations."""
    words = _TOKEN.findall(rng.choice(corpus))
    for _ in range(rng.randint(0, 4)):
        at = rng.randint(0, len(words))
        match rng.randint(0, 4):
            case 0:
                del words[at : at + rng.randint(1, 3)]
            case 1:
                words.insert(at, rng.choice(_NASTY))
            case 2:
                other = _TOKEN.findall(rng.choice(corpus))
                start = rng.randint(0, len(other))
                words[at : at + 1] = other[start : start + rng.randint(1, 8)]
            case 3:
                words[at:at] = words[at : at + rng.randint(1, 3)] * rng.choice((1, 2, 30))
            case _ if rng.random() < _DEEP_SHARE:
                words.insert(at, rng.choice(_REPEATED) * rng.choice((50, 500, DEEP)))
    return "".join(words)


def long_inputs(corpus: tuple[str, ...], size: int) -> Iterator[str]:
    """Repetitive inputs of about `size` characters, for which a quadratic parser takes long."""
    for piece in _REPEATED:
        text = piece * (size // len(piece))
        yield text
        yield corpus[0] + text
        yield corpus[0][: len(corpus[0]) // 2] + text


def check(target: Target, text: str) -> None:
    """Run a parser on an input; raises an error for any outcome but a value or a 4xx."""
    try:
        target.run(text)
    except RegistryError as error:
        if not 400 <= error.problem.status < 500:
            raise AssertionError(text[:300]) from error


def run(name: str, count: int, seed: int) -> str | None:
    """Run a target on `count` inputs; returns the first error with its input, or None."""
    rng = random.Random(f"{seed} {name}")
    for _ in range(count):
        text = generate(rng, TARGETS[name].corpus)
        try:
            check(TARGETS[name], text)
        except Exception as error:  # noqa: BLE001 - any exception is a finding
            return f"{error!r}\n  {text[:500]!r}"
    return None


def main() -> int:
    """Run all targets with equal numbers of inputs; returns 1 when one failed."""
    count, seed = int(os.environ.get("COUNT", "1000000")), int(os.environ.get("SEED", "1"))
    each = -(-count // len(TARGETS))
    failures = 0
    for name in TARGETS:
        found = run(name, each, seed)
        failures += found is not None
        print(f"{name:<32} {each} inputs {found or 'ok'}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
