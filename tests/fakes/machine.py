"""Fakes of the other ports: cryptography (by the package of that name), other servers, and PyJWT's clock."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Protocol

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from registry.ports.crypto import PBKDF2_BYTES, PBKDF2_ITERATIONS, PublicKey
from registry.ports.web import WebError, WebResponse
from tests.fakes.streams import Chunk, FakeSource


class FakeCrypto:
    """Implements `registry.ports.crypto.Crypto`. It counts the slow operations: PBKDF2 (`stretched`) and `verified`."""

    def __init__(self) -> None:
        self.stretched = 0
        self.verified = 0

    async def verify(self, key: PublicKey, signature: bytes, signed: bytes) -> bool:
        await asyncio.sleep(0)
        self.verified += 1
        algorithm = jwt.get_algorithm_by_name(key.algorithm)
        try:
            if isinstance(key.material, bytes):
                material = load_der_public_key(key.material)
            else:
                material = jwt.PyJWK(dict(key.material), key.algorithm).key
        except (ValueError, UnsupportedAlgorithm, jwt.exceptions.PyJWTError) as error:
            raise ValueError(str(error)) from None
        return algorithm.verify(signed, material, signature)

    async def pbkdf2(self, password: bytes, salt: bytes) -> bytes:
        await asyncio.sleep(0)
        self.stretched += 1
        return hashlib.pbkdf2_hmac("sha256", password, salt, PBKDF2_ITERATIONS, PBKDF2_BYTES)


@dataclass(frozen=True, slots=True)
class WebRequest:
    """A request to another server; header names are in lower case."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: str

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return "/".join(self.url.split("/")[:3])

    @property
    def path(self) -> str:
        """The path with its query."""
        return self.url[len(self.origin) :]


@dataclass(frozen=True, slots=True)
class Reply:
    """The response of another server; header names are in lower case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    chunks: Iterable[Chunk] = ()


Server = Callable[[WebRequest], Awaitable[Reply]]


@dataclass(slots=True)
class FakeWeb:
    """Implements `registry.ports.web.Web`: a function answers for each origin; others refuse the connection."""

    servers: dict[str, Server] = field(default_factory=dict)
    requests: list[WebRequest] = field(default_factory=list)
    open_bodies: int = 0

    @property
    def asked(self) -> list[str]:
        """The URLs of all requests."""
        return [request.url for request in self.requests]

    async def fetch(self, method: str, url: str, headers: Mapping[str, str], body: str = "") -> WebResponse:
        request = WebRequest(method, url, {name.lower(): value for name, value in headers.items()}, body)
        self.requests.append(request)
        await asyncio.sleep(0)
        if request.origin not in self.servers:
            raise WebError("connection refused")
        reply = await self.servers[request.origin](request)
        self.open_bodies += 1
        chunks = () if method == "HEAD" else reply.chunks
        return WebResponse(reply.status, reply.headers.get, FakeSource(chunks, None, self._closed))

    def _closed(self) -> None:
        self.open_bodies -= 1


class _Clock(Protocol):
    def __call__(self) -> float: ...


class TokenClock(datetime):
    """Replaces the `datetime` of PyJWT by the clock that was created last."""

    clock: _Clock

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        """The time of the fake clock."""
        return datetime.fromtimestamp(cls.clock(), tz)


setattr(jwt.api_jwt, "datetime", TokenClock)  # noqa: B010 - PyJWT exports no such name
