"""`registry-token`: makes keys and tokens for the registry on the operator's machine (docs/authentication.md).

Private keys are written to files that only their owner can read. Tokens and hashes go to standard output.
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
ITERATIONS = 100_000  # of PBKDF2: the maximum of Web Crypto in Workers
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# The members of a JWK that form the public key and its thumbprint (RFC 7638).
PUBLIC = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}


class CommandError(Exception):
    """The command failed; the message is for the user."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 1 when the command fails or the token is not valid, else 0."""
    parser = argparse.ArgumentParser(prog="registry-token", description="Keys and tokens for the registry.")
    commands = parser.add_subparsers(required=True, metavar="keygen|issue|inspect|hash")

    keygen = commands.add_parser("keygen", help="make a key pair; write the private key to a file, print the setting")
    keygen.add_argument("--private-key", type=Path, required=True, help="the file to write; it must not exist")
    keygen.add_argument("--algorithm", choices=("ES256", "ES384", "RS256", "PS256", "EdDSA"), default="ES256")
    keygen.set_defaults(run=_keygen)

    issue = commands.add_parser("issue", help="sign a token, which clients send in place of a password")
    issue.add_argument("--private-key", type=Path, required=True, help="the file written by keygen")
    issue.add_argument("--allow", type=_access, default=["pull"], help="comma-separated: pull, push, delete")
    issue.add_argument("--repository", action="append", help="a glob (team/*, team/**); may be repeated; default: all")
    issue.add_argument("--expires", type=_seconds, default=3600, help="lifetime: a number with s, m, h or d (1h)")
    issue.add_argument("--user", default="token", help="the user name in the registry's log")
    issue.add_argument("--audience", help="the value of JWT_REGISTRY_TOKENS_AUDIENCE, if the registry has it")
    issue.set_defaults(run=_issue)

    inspect = commands.add_parser("inspect", help="read a token from standard input and show its claims")
    inspect.add_argument("--public-key", type=Path, help="a file with the output of keygen, to verify the token with")
    inspect.set_defaults(run=_inspect)

    hashing = commands.add_parser("hash", help="read a password, and print its hash for ACCOUNTS_JSON")
    hashing.add_argument("--generate", action="store_true", help="make a random token and print its hash, too")
    hashing.set_defaults(run=_hash)

    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except (CommandError, OSError) as error:
        print(f"registry-token: {error}", file=sys.stderr)
        return 1


def _access(text: str) -> list[str]:
    named = text.split(",")
    if not set(named) <= set(ACCESS):
        raise argparse.ArgumentTypeError(f"{text}: use a comma-separated list of {', '.join(ACCESS)}")
    return [access for access in ACCESS if access in named]


def _seconds(text: str) -> int:
    found = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text, re.ASCII)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text}: use a number with s, m, h or d, for example 8h")
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
    # O_EXCL never overwrites an existing key: the tokens that it signed would become invalid.
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
        raise CommandError(f"{options.private_key} is not a private key written by keygen") from None
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
        raise CommandError(f"standard input is not a JWT: {error}") from None
    print(json.dumps({"header": token["header"], "claims": token["payload"]}, indent=2))
    problems = []
    if options.public_key is not None:
        try:
            public = json.loads(base64.b64decode(options.public_key.read_text()))
            algorithm = jwt.get_algorithm_by_name(public["alg"])
            key: Any = algorithm.from_jwk(public)
        except (ValueError, KeyError, TypeError, NotImplementedError, jwt.PyJWTError):
            raise CommandError(f"{options.public_key} is not the output of keygen") from None
        if not algorithm.verify(text.rpartition(".")[0].encode(), key, token["signature"]):
            problems.append("another key signed this token")
    expires = token["payload"].get("exp")
    if not isinstance(expires, int):
        problems.append("the token has no exp claim, which the registry requires")
    elif expires <= time.time():
        problems.append(f"the token expired at {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(expires))}")
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
            raise CommandError("the two passwords differ: try again")
    else:
        password = sys.stdin.readline().rstrip("\n")
    if not password:
        raise CommandError("the password is empty")
    salt = secrets.token_bytes(16)
    digest = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ITERATIONS)
    parts = (base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (salt, digest))
    print(f"secret: pbkdf2-sha256:{ITERATIONS}:{':'.join(parts)}")
    return 0
