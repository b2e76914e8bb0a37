"""How many R2 calls a request may make: work that needs more goes on in another one."""

from dataclasses import dataclass

CALLS = 45  # of one request, which has 50 on the Free plan


class OutOfCalls(Exception):
    """The rest is for another request."""


@dataclass(slots=True)
class Calls:
    """What a request may still ask of R2."""

    left: int = CALLS

    def take(self, count: int = 1) -> None:
        """Before so many calls; raises OutOfCalls."""
        if self.left < count:
            raise OutOfCalls
        self.left -= count
