"""`registry-token`: keys and tokens for the registry, made on the operator's machine (docs/authentication.md).

Secrets are written to files that only their owner reads, or to standard output when that is what was asked for.
"""

import argparse
import base64
import getpass
import hashlib
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

ACCESS = ("pull", "push", "delete")
ITERATIONS = 100_000  # of PBKDF2: what Web Crypto in Workers takes at most
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# The members of a JWK that its thumbprint is made of (RFC 7638), which are the public key.
PUBLIC = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}


class Wrong(Exception):
    """What was asked for cannot be done; the message is for the user."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, or 1 when it cannot be done or the token is not valid."""
    parser = argparse.ArgumentParser(prog="registry-token", description="Keys and tokens for the registry.")
    commands = parser.add_subparsers(required=True, metavar="keygen|issue|inspect|hash")

    keygen = commands.add_parser("keygen", help="make a key pair: the private key to a file, the setting to stdout")
    keygen.add_argument("--private-key", type=Path, required=True, help="the file to write; it must not exist")
    keygen.add_argument("--algorithm", choices=("ES256", "ES384", "RS256", "PS256", "EdDSA"), default="ES256")
    keygen.set_defaults(run=_keygen)

    issue = commands.add_parser("issue", help="sign a token, which is given in place of a password")
    issue.add_argument("--private-key", type=Path, required=True, help="a file that keygen wrote")
    issue.add_argument("--allow", type=_access, default=["pull"], help="comma-separated: pull, push, delete")
    issue.add_argument("--repository", action="append", help="a glob (team/*, team/**); several times; without: all")
    issue.add_argument("--expires", type=_seconds, default=3600, help="a number with s, m, h or d; by default 1h")
    issue.add_argument("--user", default="token", help="the name that the registry's log shows")
    issue.add_argument("--audience", help="when the registry has JWT_REGISTRY_TOKENS_AUDIENCE")
    issue.set_defaults(run=_issue)

    inspect = commands.add_parser("inspect", help="show what a token says; it is read from stdin")
    inspect.add_argument("--public-key", type=Path, help="a file with what keygen printed: verify with it, too")
    inspect.set_defaults(run=_inspect)

    hashing = commands.add_parser("hash", help="make the secret of an account for ACCOUNTS_JSON")
    hashing.add_argument("--generate", action="store_true", help="a new token and its hash, instead of a password's")
    hashing.set_defaults(run=_hash)

    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except (Wrong, OSError) as error:
        print(f"registry-token: {error}", file=sys.stderr)
        return 1


def _access(text: str) -> list[str]:
    named = text.split(",")
    if not set(named) <= set(ACCESS):
        raise argparse.ArgumentTypeError(f"{text}: comma-separated, of {', '.join(ACCESS)}")
    return [access for access in ACCESS if access in named]


def _seconds(text: str) -> int:
    found = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text, re.ASCII)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text}: a number with s, m, h or d, for example 8h")
    return int(found[1]) * SECONDS[found[2]]


def _keygen(options: argparse.Namespace) -> int:
    algorithm: str = options.algorithm
    key: Any
    if algorithm == "EdDSA":
        key = ed25519.Ed25519PrivateKey.generate()
    elif algorithm.startswith("ES"):
        key = ec.generate_private_key(ec.SECP256R1() if algorithm == "ES256" else ec.SECP384R1())
    else:
        key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    private = jwt.get_algorithm_by_name(algorithm).to_jwk(key, as_dict=True)
    public = {name: private[name] for name in PUBLIC[private["kty"]]}
    canonical = json.dumps(public, sort_keys=True, separators=(",", ":"))
    thumbprint = base64.urlsafe_b64encode(hashlib.sha256(canonical.encode()).digest()).decode().rstrip("=")
    named = {"kid": thumbprint, "alg": algorithm}
    # Never over a key that is there: what it signed would be void.
    with open(os.open(options.private_key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123
        json.dump({**private, **named}, file)
    print(base64.b64encode(json.dumps({**public, **named}).encode()).decode())
    return 0


def _issue(options: argparse.Namespace) -> int:
    try:
        private = json.loads(options.private_key.read_text())
        algorithm = private["alg"]
        key: Any = jwt.get_algorithm_by_name(algorithm).from_jwk(private)
    except (ValueError, KeyError, TypeError, NotImplementedError, jwt.PyJWTError):
        raise Wrong(f"{options.private_key} is no private key that keygen wrote") from None
    now = int(time.time())
    claims: dict[str, Any] = {
        "username": options.user,
        "capabilities": options.allow,
        "iat": now,
        "exp": now + options.expires,
    }
    if options.repository:
        claims["access"] = [
            {"type": "repository", "name": name, "actions": options.allow} for name in options.repository
        ]
    if options.audience:
        claims["aud"] = options.audience
    print(jwt.encode(claims, key, algorithm, headers={"kid": private["kid"]}))
    return 0


def _inspect(options: argparse.Namespace) -> int:
    text = sys.stdin.read().strip()
    try:
        token = jwt.decode_complete(text, options={"verify_signature": False})
    except jwt.PyJWTError as error:
        raise Wrong(f"this is no token: {error}") from None
    print(json.dumps({"header": token["header"], "claims": token["payload"]}, indent=2))
    problems = []
    if options.public_key is not None:
        try:
            public = json.loads(base64.b64decode(options.public_key.read_text()))
            algorithm = jwt.get_algorithm_by_name(public["alg"])
            key: Any = algorithm.from_jwk(public)
        except (ValueError, KeyError, TypeError, NotImplementedError, jwt.PyJWTError):
            raise Wrong(f"{options.public_key} is not what keygen printed") from None
        if not algorithm.verify(text.rpartition(".")[0].encode(), key, token["signature"]):
            problems.append("the signature is not of this key")
    expires = token["payload"].get("exp")
    if not isinstance(expires, int):
        problems.append("it has no exp: the registry demands one")
    elif expires <= time.time():
        problems.append(f"it has expired: {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(expires))}")
    for problem in problems:
        print(f"registry-token: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _hash(options: argparse.Namespace) -> int:
    if options.generate:
        token = secrets.token_urlsafe(32)
        print(f"token:  {token}\nsecret: sha256:{hashlib.sha256(token.encode()).hexdigest()}")
        return 0
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if getpass.getpass("Again: ") != password:
            raise Wrong("these are two passwords")
    else:
        password = sys.stdin.readline().rstrip("\n")
    if not password:
        raise Wrong("the password is empty")
    salt = secrets.token_bytes(16)
    digest = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ITERATIONS)
    parts = (base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (salt, digest))
    print(f"secret: pbkdf2-sha256:{ITERATIONS}:{':'.join(parts)}")
    return 0
