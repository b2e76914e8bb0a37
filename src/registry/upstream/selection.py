"""Which upstream answers for a repository, and which repositories no upstream answers for."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from registry.content import gc_register, manifests
from registry.ports.platform import Platform
from registry.spec.errors import Problem
from registry.spec.names import Digest, Reference, RepositoryName
from registry.telemetry.log import log
from registry.upstream.exchange import UpstreamError
from registry.upstream.upstreams import Upstream

T = TypeVar("T")
_K = TypeVar("_K", bound=str)

_FOR_EVER = float("inf")
_REMEMBERED = 10_000  # keys, and repositories
_NOT_PUSHED_SECONDS = 30  # for which a repository is taken for one that nobody has pushed to


class Times(dict[_K, float]):
    """When something was, in seconds since the epoch; of the latest ones only."""

    def note(self, key: _K, when: float) -> None:
        """Remember one."""
        if len(self) >= _REMEMBERED:
            self.clear()
        self[key] = when


class Selection:
    """The upstreams in the order of the setting."""

    def __init__(self, platform: Platform, upstreams: tuple[Upstream, ...]) -> None:
        self._platform = platform
        self.upstreams = upstreams
        self._pushed = Times[RepositoryName]()  # those nobody pushed to, until when; those somebody did: for ever

    async def note_push(self, name: RepositoryName) -> None:
        """A manifest was pushed: from now on no upstream answers for the repository."""
        if self.upstreams and self._pushed.get(name) != _FOR_EVER:
            is_noted = await gc_register.note_push(self._platform, name)
            self._pushed.note(name, _FOR_EVER if is_noted else 0.0)

    async def may_answer(self, upstream: Upstream, name: RepositoryName) -> bool:
        """Whether an upstream is asked for a repository: somebody else may have one of the same name there."""
        if upstream.pushed_repositories:
            return True
        until = self._pushed.get(name, 0.0)
        if until <= self._platform.now():
            is_pushed = await manifests.is_pushed(self._platform, name)
            until = _FOR_EVER if is_pushed else self._platform.now() + _NOT_PUSHED_SECONDS
            self._pushed.note(name, until)
        return until != _FOR_EVER

    async def first(
        self,
        name: RepositoryName,
        reference: Reference,
        unknown: Problem,
        ask: Callable[[Upstream, RepositoryName], Awaitable[T | None]],
    ) -> T | None:
        """What the first upstream that has it answers; raises what the client is told when none has and one failed.

        A tag stops at an upstream that fails: the next one may have something else of the same name.
        """
        failure: UpstreamError | None = None
        for upstream in self.upstreams:
            there = upstream.name_there(name)
            if there is None or not await self.may_answer(upstream, name):
                continue
            try:
                found = await ask(upstream, there)
            except UpstreamError as error:
                log("upstream-failed", upstream=upstream.host, repository=name, reason=error.reason)
                if failure is None or failure.is_denial:
                    failure = error
                if not (error.is_denial or isinstance(reference, Digest)):
                    break
            else:
                if found is not None:
                    return found
        if failure is not None:
            raise failure.told(unknown)
        return None
