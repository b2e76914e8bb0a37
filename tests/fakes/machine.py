"""What else there is beside the bucket: cryptography by the package of that name, other servers, PyJWT's clock."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Protocol

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from registry.crypto import PBKDF2_BYTES, PBKDF2_ITERATIONS, PublicKey
from registry.web import WebError, WebResponse
from tests.fakes.streams import FakeSource


class FakeCrypto:
    """`registry.crypto.Crypto`. `stretched` counts PBKDF2s, `verified` signatures: each is worth milliseconds."""

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


@dataclass(slots=True)
class FakeWeb:
    """`registry.web.Web`: each URL is answered by a function, any other one by nobody. `asked` is every URL."""

    pages: dict[str, Callable[[], Awaitable[tuple[int, bytes]]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def get(self, url: str, headers: Mapping[str, str], seconds: float) -> WebResponse:
        self.asked.append(url)
        if url not in self.pages:
            raise WebError("connection refused")
        status, data = await self.pages[url]()
        return WebResponse(status, lambda _: None, FakeSource([data]))


class _Clock(Protocol):
    def __call__(self) -> float: ...


class TokenClock(datetime):
    """PyJWT asks the machine for the time. Here it asks the clock that was set up last."""

    clock: _Clock

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        """The fake time."""
        return datetime.fromtimestamp(cls.clock(), tz)


setattr(jwt.api_jwt, "datetime", TokenClock)  # noqa: B010 - it exports no such name
