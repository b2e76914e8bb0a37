"""A CI system that signs identity tokens, with its keys on loopback."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from .loopback import QuietHandler, serving

AUDIENCE = "the registry"
# What the registry is told of its jobs.
JOB_RULE = {"claims": {"repository": "org/app"}, "permissions": {"org/app": ["pull", "push"]}}


@dataclass(frozen=True, slots=True)
class Issuer:
    """The issuer's URL and its private key."""

    url: str
    key: rsa.RSAPrivateKey

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Self]:
        """Serve the public key while the block runs."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public: dict[str, Any] = jwt.get_algorithm_by_name("RS256").to_jwk(key.public_key(), as_dict=True)
        page = json.dumps({"keys": [{**public, "kid": "job", "alg": "RS256"}]}).encode()

        class Handler(QuietHandler):
            def do_GET(self) -> None:  # noqa: N802 - http.server's name
                self.answer(200, page)

        with serving(Handler) as port:
            yield cls(f"http://127.0.0.1:{port}", key)

    @property
    def setting(self) -> dict[str, Any]:
        """An entry of OIDC_ISSUERS_JSON, without rules."""
        return {"issuer": self.url, "jwks": f"{self.url}/jwks", "audience": AUDIENCE}

    def sign(self, claims: Mapping[str, object]) -> str:
        """An identity token of five minutes."""
        times = {"iat": int(time.time()), "exp": int(time.time()) + 300}
        payload = {"iss": self.url, "aud": AUDIENCE, "sub": "job", **times, **claims}
        return jwt.encode(payload, self.key, "RS256", headers={"kid": "job"})
