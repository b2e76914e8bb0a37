"""Rate limits for wrong passwords: each takes a PBKDF2, which needs more CPU than everything else in a small request.

Each isolate counts attempts for each client address, as Cloudflare reports it, and for each account name tried from
there. Cached credentials, and secrets without PBKDF2, are not limited.
"""

import contextlib
import hashlib
import ipaddress
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from registry.spec.errors import Problem, RegistryError

_K = TypeVar("_K")

AT_ONCE = 4  # PBKDF2s that run concurrently
_WAIT_SECONDS = 5.0  # for one of them to end; then the answer is 429
_POLL_SECONDS = 0.05
_LOST_SECONDS = 10.0  # after which a running PBKDF2 is assumed to belong to a dropped request
_LONGEST_ADDRESS = 45  # characters
_REMEMBERED = 1_000  # wrong credentials; and the same number of counters for addresses and names
_REMEMBERED_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """Allowed attempts: `burst` at once, then one each `seconds`."""

    burst: int
    seconds: float


PER_ADDRESS = Allowance(30, 1.0)
PER_NAME = Allowance(10, 6.0)  # from one address


class PasswordGuard:
    """Decides whether a password may be checked."""

    def __init__(self, now: Callable[[], float], sleep: Callable[[float], Awaitable[None]]) -> None:
        self._now = now
        self._sleep = sleep
        self._running: dict[object, float] = {}  # when each PBKDF2 began, in seconds since the epoch
        self._wrong: dict[bytes, float] = {}  # fingerprints of wrong credentials, and until when
        self._spent: dict[tuple[str, ...], float] = {}  # when the past attempts stop counting, in seconds

    def knows_wrong(self, fingerprint: bytes) -> bool:
        """Whether these credentials were wrong within the last _REMEMBERED_SECONDS."""
        return self._wrong.get(fingerprint, 0.0) > self._now()

    def note_wrong(self, fingerprint: bytes) -> None:
        """Remember these credentials as wrong."""
        _remember(self._wrong, fingerprint, self._now() + _REMEMBERED_SECONDS)

    @contextlib.asynccontextmanager
    async def attempt(self, address: str, name: str) -> AsyncIterator[Callable[[], None]]:
        """Enclose a PBKDF2. Yields a function to call if the password is right, so that the attempt does not count.

        Raises TOO_MANY_REQUESTS, with Retry-After, when there were too many attempts.
        """
        now = self._now()
        # A name may be as long as a request's header, so its hash is stored. A client with one IPv6 address usually has
        # a whole /64 network, so the network is counted.
        network = _network(address)
        hashed = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
        limits = ((network,), PER_ADDRESS), ((network, hashed), PER_NAME)
        until = {key: max(self._spent.get(key, 0.0), now) + allowance.seconds for key, allowance in limits}
        excess = max(until[key] - now - allowance.burst * allowance.seconds for key, allowance in limits)
        if excess > 0:
            raise _too_many(excess)
        for key, value in until.items():
            _remember(self._spent, key, value)

        def refund() -> None:
            for key, allowance in limits:
                self._spent[key] = self._spent.get(key, 0.0) - allowance.seconds

        ticket = object()
        await self._await_turn(ticket)
        try:
            yield refund
        finally:
            self._running.pop(ticket, None)

    async def _await_turn(self, ticket: object) -> None:
        began = self._now()
        while True:
            now = self._now()
            self._running = {one: start for one, start in self._running.items() if now - start < _LOST_SECONDS}
            if len(self._running) < AT_ONCE:
                self._running[ticket] = now
                return
            if now - began > _WAIT_SECONDS:
                raise _too_many(1)
            await self._sleep(_POLL_SECONDS)


def _network(address: str) -> str:
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address[:_LONGEST_ADDRESS]
    return str(ipaddress.ip_network((known, 64), strict=False)) if known.version == 6 else address


def _too_many(seconds: float) -> RegistryError:
    return RegistryError(
        Problem.TOO_MANY_REQUESTS,
        "too many wrong passwords; wait as long as Retry-After says, then try again",
        headers={"Retry-After": str(math.ceil(seconds))},
    )


def _remember(known: dict[_K, float], key: _K, value: float) -> None:
    """Add an entry; the oldest goes when there are _REMEMBERED."""
    known.pop(key, None)
    if len(known) >= _REMEMBERED:
        del known[next(iter(known))]
    known[key] = value
