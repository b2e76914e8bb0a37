"""Amazon ECR: exchanges an access key for a password of its registry, with GetAuthorizationToken.

The request is signed with Signature Version 4 (AWS, "Create a signed AWS API request").
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from registry.spec.untrusted_json import read_json

_HOST = re.compile(r"[0-9]{12}\.dkr\.ecr(?:-fips)?\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?", re.ASCII)
_ACTION = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
_SERVICE = "ecr"
_BODY = "{}"
MAX_ANSWER = 64 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class AccessKey:
    """An AWS access key, which signs the request."""

    id: str
    secret: str


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A signed POST request."""

    url: str
    headers: Mapping[str, str]
    body: str


def region_of(host: str) -> str | None:
    """Return the AWS region of an ECR registry; None if `host` is no ECR registry."""
    match = _HOST.fullmatch(host)
    return match[1] if match else None


def token_request(host: str, key: AccessKey, now: float) -> SignedRequest:
    """Return the request for a password of the registry `host`; `now` is in seconds since the epoch."""
    match = _HOST.fullmatch(host)
    assert match is not None
    api = f"api.ecr.{match[1]}.amazonaws.com{match[2] or ''}"
    headers = {"content-type": "application/x-amz-json-1.1", "host": api, "x-amz-target": _ACTION}
    signed = _sign(key, match[1], headers, now)
    del signed["host"]  # the runtime adds this header
    return SignedRequest(f"https://{api}/", signed, _BODY)


def _sign(key: AccessKey, region: str, headers: Mapping[str, str], now: float) -> dict[str, str]:
    """Return the headers, with those that sign a POST of _BODY to "/". Names are in lower case."""
    time = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    day = time[:8]
    all_headers = dict(sorted({**headers, "x-amz-date": time}.items()))
    names = ";".join(all_headers)
    canonical = "\n".join(
        [
            "POST",
            "/",
            "",
            *(f"{name}:{value}" for name, value in all_headers.items()),
            "",
            names,
            hashlib.sha256(_BODY.encode()).hexdigest(),
        ]
    )
    scope = f"{day}/{region}/{_SERVICE}/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{time}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    derived = f"AWS4{key.secret}".encode()
    for step in (day, region, _SERVICE, "aws4_request", to_sign):
        derived = hmac.digest(derived, step.encode(), "sha256")
    credential = f"AWS4-HMAC-SHA256 Credential={key.id}/{scope}, SignedHeaders={names}, Signature={derived.hex()}"
    return {**all_headers, "authorization": credential}


def read_token(answer: bytes) -> tuple[str, float]:
    """Return the value of the Authorization header and its expiry, in seconds since the epoch. Raises ValueError."""
    try:
        (data,) = read_json(answer, MAX_ANSWER)["authorizationData"][:1]
        token, expires = str(data["authorizationToken"]), float(data["expiresAt"])
        base64.b64decode(token, validate=True)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("no authorizationData") from error
    return f"Basic {token}", expires
