"""The errors of a push, each with an exit code for scripts and a message for people."""

from typing import ClassVar

import httpx


class Failure(Exception):
    """The push failed. The message says why and what to do; `response` is the registry's response that caused it."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, response: httpx.Response | None = None) -> None:
        super().__init__(message)
        self.response = response


class Misused(Failure):
    """The command line, or an image or file that it names, is invalid."""

    exit_code = 2


class Refused(Failure):
    """The registry refused access: authentication or authorization failed."""

    exit_code = 3


class Unreachable(Failure):
    """The registry gave no usable response, after all retries."""

    exit_code = 4


class SessionGone(Failure):
    """The registry no longer knows the upload session: the bytes uploaded to it are lost."""
