"""Tokens that the operator signs, and their public keys. One test for each known attack."""

import base64
import hmac
import json
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.access.public_keys import parse_public_keys, pick
from registry.access.signed_tokens import LEEWAY, MAX_TOKEN, read_token
from registry.ports.crypto import ALGORITHMS
from registry.settings import read_settings
from tests.fakes.client import START, Answer, FakeRegistry, basic
from tests.tokens import CLAIMS, encode, jwk, pem, private_key, setting, sign


def with_key(key: object, **variables: str) -> FakeRegistry:
    """A registry whose only credentials are tokens verified with this public key."""
    return FakeRegistry(settings=read_settings({"JWT_REGISTRY_TOKENS_PUBLIC_KEY": setting(key), **variables}.get))


@pytest.fixture
def registry() -> FakeRegistry:
    """A registry with the ES256 key."""
    return with_key(jwk("ES256"))


async def ask(
    registry: FakeRegistry, token: str, method: str = "GET", url: str = "/v2/", scheme: str = "basic"
) -> Answer:
    """Send a request with a token, as the password or as Bearer."""
    header = basic("anything", token) if scheme == "basic" else f"Bearer {token}"
    return await registry.call(method, url, user=None, headers={"authorization": header})


async def refused(registry: FakeRegistry, token: str) -> str:
    """Assert that a token is refused, as the password and as Bearer; return the message."""
    answers = [await ask(registry, token, scheme=scheme) for scheme in ("basic", "bearer")]
    messages = [json.loads(answer.body)["errors"][0]["message"] for answer in answers]
    assert [answer.status for answer in answers] == [401, 401], messages
    assert [answer.codes for answer in answers] == [["UNAUTHORIZED"], ["UNAUTHORIZED"]]
    return str(messages[1])


# ------------------------------------------------------------------ valid tokens
@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
@pytest.mark.parametrize("form", ["jwk", "set", "pem", "plain"])
async def test_every_algorithm_and_form_of_key(algorithm: str, form: str) -> None:
    """A JWK, a JWK set and a PEM, each in base64, and a JWK as plain text. A PEM of RSA is for RS256."""
    if (algorithm, form) == ("PS256", "pem"):
        return
    key: object = {"jwk": jwk(algorithm), "set": {"keys": [jwk(algorithm)]}, "pem": pem(algorithm)}.get(form)
    value = json.dumps(jwk(algorithm)) if form == "plain" else setting(key)
    registry = FakeRegistry(settings=read_settings({"JWT_REGISTRY_TOKENS_PUBLIC_KEY": value}.get))
    for scheme in ("basic", "bearer"):
        assert (await ask(registry, sign(algorithm=algorithm), scheme=scheme)).status == 200


async def test_keys_and_tokens_of_serverless_registry(registry: FakeRegistry) -> None:
    """Its key, exported by Web Crypto, has key_ops and ext; the claims are those of its createToken."""
    registry = with_key(jwk("ES256", key_ops=["verify"], ext=True))
    claims = {
        "username": "v0",
        "account_id": "a",
        "capabilities": ["pull", "push"],
        "exp": int(START) + 60,
        "aud": "https://x",
    }
    assert (await ask(registry, sign(claims), "POST", "/v2/any/name/blobs/uploads/")).status == 202


@pytest.mark.parametrize(
    ("capabilities", "head", "get", "post", "delete"),
    [
        (["pull"], 404, 404, 403, 403),
        (["push"], 404, 403, 202, 403),
        (["delete"], 403, 403, 403, 404),
        (["pull", "push", "delete"], 404, 404, 202, 404),
        ([], 403, 403, 403, 403),
    ],
)
async def test_capabilities(
    registry: FakeRegistry, capabilities: list[str], head: int, get: int, post: int, delete: int
) -> None:
    """As in serverless-registry: HEAD needs pull or push, GET needs pull, uploads need push. Deletions need delete."""
    token = sign(capabilities=capabilities)
    calls = (
        ("HEAD", "manifests/1", head),
        ("GET", "manifests/1", get),
        ("POST", "blobs/uploads/", post),
        ("DELETE", "manifests/1", delete),
    )
    for method, path, status in calls:
        assert (await ask(registry, token, method, f"/v2/a/{path}")).status == status
    assert (await ask(registry, token)).status == (200 if capabilities else 403)


async def test_access_limits_a_token_to_repositories(registry: FakeRegistry) -> None:
    """`access` is the claim of the distribution token specification, with globs; `capabilities` limits it further."""
    access = [
        {"type": "repository", "name": "team/*", "actions": ["pull", "push"]},
        {"type": "repository", "name": "base", "actions": ["*"]},
        {"type": "registry", "name": "catalog", "actions": ["*"]},
    ]
    for claims, statuses in (
        ({"access": access}, {"team/a": 202, "team/a/b": 403, "other": 403, "base": 202}),
        ({"access": access, "capabilities": ["pull"]}, {"team/a": 403, "base": 403}),
        ({"access": [], "capabilities": ["push"]}, {"team/a": 403}),
    ):
        token = sign({"exp": CLAIMS["exp"], **claims})
        for name, status in statuses.items():
            assert (await ask(registry, token, "POST", f"/v2/{name}/blobs/uploads/")).status == status
    assert (
        await ask(registry, sign({"exp": CLAIMS["exp"], "access": access}), "GET", "/v2/base/manifests/1")
    ).status == 404


async def test_passwords_and_tokens_at_once() -> None:
    """All methods of authentication work together, even with a password that looks like a token."""
    lookalike = sign(which=9)
    variables = {"USERNAME": "u", "PASSWORD": "p", "READONLY_USERNAME": "r", "READONLY_PASSWORD": lookalike}
    registry = with_key(jwk("ES256"), **variables)
    for secret in (basic("u", "p"), basic("r", lookalike), basic("x", sign())):
        assert (await registry.call("GET", "/v2/", user=None, headers={"authorization": secret})).status == 200


async def test_a_signature_is_verified_once(registry: FakeRegistry) -> None:
    """The isolate caches a verified token until the token expires."""
    token = sign(exp=int(START) + 100)
    for _ in range(5):
        assert (await ask(registry, token)).status == 200
    assert registry.crypto.verified == 1
    registry.clock.now = START + 100 + LEEWAY
    assert "expired" in await refused(registry, token)


async def test_kid_picks_the_key() -> None:
    """Of several keys, only the one that `kid` names verifies a token. Without `kid` no key does."""
    keys = {"keys": [jwk("ES256", 1, kid="one"), jwk("ES256", 2, kid="two"), jwk("RS256", kid="rsa")]}
    registry = with_key(keys)
    for which, kid in ((1, "one"), (2, "two")):
        assert (await ask(registry, sign(which=which, header={"kid": kid}))).status == 200
    assert (await ask(registry, sign(algorithm="RS256", header={"kid": "rsa"}))).status == 200
    for which, kid in ((1, "two"), (1, "three"), (1, "rsa")):
        await refused(registry, sign(which=which, header={"kid": kid}))
    await refused(registry, sign(which=1))


async def test_audience_is_checked_when_configured() -> None:
    """`aud` may be one audience or a list. Without the setting any `aud` is accepted, as in serverless-registry."""
    registry = with_key(jwk("ES256"), JWT_REGISTRY_TOKENS_AUDIENCE="https://registry.example")
    assert (await ask(registry, sign(aud="https://registry.example"))).status == 200
    assert (await ask(registry, sign(aud=["other", "https://registry.example"]))).status == 200
    assert "Audience" in await refused(registry, sign(aud="https://other.example"))
    assert "aud" in await refused(registry, sign())
    assert (await ask(with_key(jwk("ES256")), sign(aud="https://other.example"))).status == 200


# ------------------------------------------------------------------ attacks
async def test_alg_none(registry: FakeRegistry) -> None:
    """An unsigned token is refused, whatever the case of its algorithm."""
    for name in ("none", "None", "NONE"):
        head = encode({"alg": name, "typ": "JWT"})
        await refused(registry, f"{head}.{encode(CLAIMS)}.")
        await refused(registry, f"{head}.{encode(CLAIMS)}.{encode(b'x' * 64)}")


async def test_hs256_with_the_public_key_as_the_secret(registry: FakeRegistry) -> None:
    """The algorithm comes from the key, never from the token."""
    signed = f"{encode({'alg': 'HS256', 'typ': 'JWT'})}.{encode(CLAIMS)}"
    for secret in (pem("ES256"), json.dumps(jwk("ES256")), setting(jwk("ES256")), jwk("ES256")["x"]):
        mac = hmac.digest(secret.encode(), signed.encode(), "sha256")
        await refused(registry, f"{signed}.{encode(mac)}")


async def test_an_algorithm_that_the_key_has_not(registry: FakeRegistry) -> None:
    """A valid signature of a key of another kind, and one of the same key with another algorithm."""
    await refused(registry, sign(algorithm="RS256"))
    await refused(registry, sign(algorithm="ES384"))
    rsa = with_key(jwk("RS256"))
    pss = jwt.encode(CLAIMS, private_key("RS256"), "PS256")
    await refused(rsa, pss)


async def test_another_key(registry: FakeRegistry) -> None:
    """A token signed with another key is refused, even with that public key in its header."""
    await refused(registry, sign(which=1))
    await refused(registry, sign(which=1, header={"jwk": jwk("ES256", 1)}))


async def test_key_urls_in_the_header_are_ignored(registry: FakeRegistry) -> None:
    """`jku` and `x5u` may point to an attacker's keys: the registry fetches nothing."""
    header = {"jku": "https://evil.example/jwks", "x5u": "https://evil.example/cert", "x5c": ["MII"]}
    await refused(registry, sign(which=1, header=header))
    assert (await ask(registry, sign(header=header))).status == 200
    assert registry.web.asked == []


async def test_a_wrong_kid_is_no_path(registry: FakeRegistry) -> None:
    """`kid` must be a string, and is only compared with the names of keys."""
    registry = with_key(jwk("ES256", kid="mine"))
    for kid in ("other", "../../etc/passwd", "' OR 1=1 --", ""):
        await refused(registry, sign(header={"kid": kid}))
    head = encode({"alg": "ES256", "kid": ["mine"]})
    _, claims, signature = sign().split(".")
    await refused(registry, f"{head}.{claims}.{signature}")


async def test_expired(registry: FakeRegistry) -> None:
    """A token is refused once LEEWAY has passed after `exp`."""
    assert (await ask(registry, sign(exp=int(START) - LEEWAY + 10))).status == 200
    assert "expired" in await refused(registry, sign(exp=int(START) - LEEWAY))


async def test_not_yet_valid(registry: FakeRegistry) -> None:
    """A token with `nbf` or `iat` in the future is refused."""
    for claim in ("nbf", "iat"):
        assert "not yet valid" in await refused(registry, sign({**CLAIMS, claim: int(START) + LEEWAY + 60}))
        assert (await ask(registry, sign({**CLAIMS, claim: int(START) + LEEWAY - 10}))).status == 200


async def test_missing_or_strange_exp(registry: FakeRegistry) -> None:
    """`exp` is required and must be a number. serverless-registry accepts a token without it forever."""
    claims = {name: value for name, value in CLAIMS.items() if name != "exp"}
    assert "exp" in await refused(registry, sign(claims))
    strange: list[object] = [None, "never", [], {}, float("inf"), float("nan"), True, "", -1]
    for exp in strange:
        head = {"alg": "ES256", "typ": "JWT"}
        signed = f"{encode(head)}.{encode({**CLAIMS, 'exp': exp})}"
        signature = jwt.get_algorithm_by_name("ES256").sign(signed.encode(), private_key("ES256"))
        await refused(registry, f"{signed}.{encode(signature)}")


async def test_huge_token(registry: FakeRegistry) -> None:
    """A token of more than MAX_TOKEN characters is not parsed."""
    await refused(registry, sign(padding="x" * MAX_TOKEN))
    await refused(registry, "x." * 100_000)
    await refused(registry, f"{encode(b'[' * 5_000)}.{encode(b'[' * 500)}.AAAA")


async def test_duplicate_json_keys(registry: FakeRegistry) -> None:
    """Two parsers might use different values: refused in the header and deep in the claims."""
    exp = CLAIMS["exp"]
    payloads = (
        f'{{"capabilities":["pull"],"exp":{exp},"capabilities":["push"]}}',
        f'{{"exp":{exp},"access":[{{"type":"repository","name":"a","actions":["pull"],"name":"b"}}]}}',
    )
    for header, payload in (
        ('{"alg":"ES256"}', payloads[0]),
        ('{"alg":"ES256"}', payloads[1]),
        ('{"alg":"none","alg":"ES256"}', json.dumps(CLAIMS)),
    ):
        signed = f"{encode(header.encode())}.{encode(payload.encode())}"
        signature = jwt.get_algorithm_by_name("ES256").sign(signed.encode(), private_key("ES256"))
        await refused(registry, f"{signed}.{encode(signature)}")


async def test_a_changed_token(registry: FakeRegistry) -> None:
    """Claims that were changed after the token was signed."""
    head, _, signature = sign(capabilities=["pull"]).split(".")
    await refused(registry, f"{head}.{encode(CLAIMS)}.{signature}")


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
async def test_truncated_and_lengthened_signatures(algorithm: str) -> None:
    """Signatures that lack a byte, a half or all bytes, or have a byte more, are refused."""
    registry = with_key(jwk(algorithm))
    signed, _, encoded = sign(algorithm=algorithm).rpartition(".")
    signature = jwt.utils.base64url_decode(encoded)
    for wrong in (signature[:-1], signature[: len(signature) // 2], b"", signature + b"\0", b"\0" + signature):
        await refused(registry, f"{signed}.{encode(wrong)}")


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
async def test_signatures_of_zeros(algorithm: str) -> None:
    """CVE-2022-21449: an ECDSA signature of zeros is valid for everything if r and s are not checked."""
    registry = with_key(jwk(algorithm))
    signed, _, encoded = sign(algorithm=algorithm).rpartition(".")
    size = len(jwt.utils.base64url_decode(encoded))
    for wrong in (b"\0" * size, b"\0" * (size - 1) + b"\1", b"\xff" * size):
        await refused(registry, f"{signed}.{encode(wrong)}")


async def test_unencoded_and_critical_headers(registry: FakeRegistry) -> None:
    """`b64` and unknown `crit` extensions change what a token means: refused (RFC 7515, 4.1.11)."""
    headers: list[dict[str, object]] = [{"crit": ["exp"], "exp": 1}, {"crit": []}, {"b64": False, "crit": ["b64"]}]
    for header in headers:
        signed = f"{encode({'alg': 'ES256', **header})}.{encode(CLAIMS)}"
        signature = jwt.get_algorithm_by_name("ES256").sign(signed.encode(), private_key("ES256"))
        await refused(registry, f"{signed}.{encode(signature)}")


@pytest.mark.parametrize(
    "claims",
    [
        {"capabilities": "push"},
        {"capabilities": ["pull", "admin"]},
        {"capabilities": {"push": True}},
        {"capabilities": None},
        {"capabilities": [["push"]]},
        {"access": {}},
        {"access": ["repository:a:pull"]},
        {"access": [{"type": "repository", "name": "a"}]},
        {"access": [{"type": "repository", "name": "../a", "actions": ["pull"]}]},
        {"access": [{"type": "repository", "name": 5, "actions": ["pull"]}]},
        {"sub": 5},
    ],
)
async def test_claims_that_make_no_sense(registry: FakeRegistry, claims: dict[str, Any]) -> None:
    """Invalid claims are refused even with a valid signature; the message says what is wrong."""
    token = sign({"exp": CLAIMS["exp"], "capabilities": ["pull"], **claims})
    assert "not valid" in await refused(registry, token)


@given(st.text(st.characters(codec="ascii"), max_size=200), st.integers(0, 3))
def test_any_text_is_parsed_or_none(text: str, dots: int) -> None:
    """No input raises an error."""
    read_token(text)
    read_token(".".join([encode(text.encode())] * dots))


# ------------------------------------------------------------------ keys
def wrong_keys() -> Iterator[tuple[str, object]]:
    """Yield part of the message, and a value that is not a supported public key."""
    private = jwt.get_algorithm_by_name("ES256").to_jwk(private_key("ES256"), as_dict=True)
    yield "secret key", private
    yield "secret key", {"kty": "oct", "k": "AAAA"}
    yield "secret key", {"keys": [jwk("ES256"), private]}
    yield "not for verifying", jwk("ES256", use="enc")
    yield "not for verifying", jwk("ES256", key_ops=["sign"])
    yield "keys are for", jwk("ES512")
    yield "keys are for", jwk("ES256", alg="RS256")
    yield "keys are for", jwk("RS256", alg="HS256")
    yield "keys are for", jwk("RS256", alg=5)
    yield "member", {"kty": "EC", "crv": "P-256", "x": "AA"}
    yield "2048 bits", {"kty": "RSA", "n": "AQAB", "e": "AQAB"}
    yield "JWK set has no keys", {"keys": []}
    yield "keys are for", {"keys": [{}]}
    yield "JSON object", {"keys": ["x"]}
    yield "base64 of", [1]
    yield "base64 of", "nonsense"
    yield "one block", "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"
    yield "one block", pem("ES256") + pem("ES256")
    yield "keys are for", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"


@pytest.mark.parametrize(("sentence", "key"), [*wrong_keys()])
def test_wrong_keys(sentence: str, key: object, capsys: pytest.CaptureFixture[str]) -> None:
    """The log says what is wrong, without the key; no token is accepted."""
    settings = read_settings({"JWT_REGISTRY_TOKENS_PUBLIC_KEY": setting(key)}.get)
    line = json.loads(capsys.readouterr().out)
    assert (line["event"], line["setting"]) == ("setting-ignored", "JWT_REGISTRY_TOKENS_PUBLIC_KEY")
    assert sentence in line["help"]
    assert settings.access.token_keys == ()


async def test_a_key_off_the_curve(capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake that appears only when the key is used: every token is refused, and the log says why."""
    registry = with_key({"kty": "EC", "crv": "P-256", "x": encode(b"1" * 32), "y": encode(b"2" * 32)})
    await refused(registry, sign())
    assert "key-unusable" in capsys.readouterr().out


def test_base64_of_either_alphabet() -> None:
    """Both alphabets, with padding or without, wrapped or not."""
    text = json.dumps(jwk("ES256", kid="??>>"))
    for encoded in (
        base64.b64encode(text.encode()).decode(),
        base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    ):
        wrapped = encoded[:50] + "\n" + encoded[50:]
        (key,) = parse_public_keys(wrapped)
        assert pick((key,), "??>>") is key


@pytest.mark.parametrize("algorithm", ["none", "HS256", "RS256", None])
async def test_a_token_that_names_another_algorithm(registry: FakeRegistry, algorithm: str | None) -> None:
    """The token is refused even if its signature is valid for the key (RFC 8725, section 3.1)."""
    header = {"typ": "JWT"} if algorithm is None else {"typ": "JWT", "alg": algorithm}
    signed = ".".join(encode(json.dumps(part).encode()) for part in (header, CLAIMS))
    signature = jwt.get_algorithm_by_name("ES256").sign(signed.encode(), private_key("ES256"))
    assert "signature is wrong" in await refused(registry, f"{signed}.{encode(signature)}")
