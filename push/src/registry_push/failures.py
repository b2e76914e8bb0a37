"""What can go wrong, each with the exit code that a script sees and a sentence for the person."""

from typing import ClassVar

import httpx


class Failure(Exception):
    """The push cannot be done; the message says why and what to do, `response` is the answer that means it, if any."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, response: httpx.Response | None = None) -> None:
        super().__init__(message)
        self.response = response


class Misused(Failure):
    """The command line, or what it names, makes no sense."""

    exit_code = 2


class Refused(Failure):
    """The registry does not let this user in."""

    exit_code = 3


class Unreachable(Failure):
    """The registry did not answer, or not usefully, however often it was asked."""

    exit_code = 4


class SessionGone(Failure):
    """The registry does not know the upload session any more: what was uploaded to it is lost."""
