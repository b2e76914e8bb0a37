"""Decides which failures are retried, and how long to wait before the next try."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx

from registry_push.failures import SessionGone, Unreachable

RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_FIRST = 0.5  # seconds
_LONGEST = 30.0  # seconds
_LONGEST_ASKED = 300.0  # seconds that Retry-After may ask for

Problem = httpx.Response | httpx.TransportError | SessionGone


@dataclass(frozen=True, slots=True)
class Retries:
    """The number of retries without progress, `count`."""

    count: int
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    say: Callable[[str], None] = lambda text: None  # tells the user why nothing happens

    async def pause(self, attempt: int, problem: Problem, what: str) -> None:
        """Wait after the failed `attempt` (1 is the first) with exponential backoff; raises Unreachable after the last.

        `what` names the operation in the messages. The first retry is silent: it mostly succeeds.
        """
        if attempt > self.count:
            times = f"{attempt} times" if attempt > 1 else "once"
            response = problem if isinstance(problem, httpx.Response) else None
            raise Unreachable(f"{what}: {described(problem)}, tried {times}", response)
        asked = _asked(problem) if isinstance(problem, httpx.Response) else 0.0
        grown = min(_LONGEST, _FIRST * 2 ** (attempt - 1))
        seconds = max(asked, grown * random.uniform(0.5, 1))  # noqa: S311 - jitter, not a secret
        if attempt > 1:
            self.say(f"{what}: {described(problem)}; retry {attempt} of {self.count} in {seconds:.0f} s")
        await self.sleep(seconds)


def described(problem: Problem) -> str:
    """A description of a problem, for messages."""
    if isinstance(problem, httpx.Response):
        return f"the registry answered {problem.status_code} {problem.reason_phrase}".rstrip()
    if isinstance(problem, httpx.LocalProtocolError):
        return "the request cannot be sent"  # the error's text quotes the malformed header, which may be a secret
    return str(problem) or type(problem).__name__


def _asked(response: httpx.Response) -> float:
    value = response.headers.get("retry-after", "")
    return min(_LONGEST_ASKED, float(value)) if value.isascii() and value.isdigit() else 0.0
