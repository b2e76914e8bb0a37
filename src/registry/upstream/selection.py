"""Selects the upstreams that are asked for a repository. By default none is asked for a repository with pushes."""

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
_REMEMBERED = 10_000  # entries of one `Times`
_NOT_PUSHED_SECONDS = 30  # for which the finding that a repository has no pushes is remembered


class Times(dict[_K, float]):
    """Times of events by key, in seconds since the epoch. Forgets all of them when it is full."""

    def note(self, key: _K, when: float) -> None:
        """Remember the time of an event."""
        if len(self) >= _REMEMBERED:
            self.clear()
        self[key] = when


class Selection:
    """The upstreams in the order of the setting."""

    def __init__(self, platform: Platform, upstreams: tuple[Upstream, ...]) -> None:
        self._platform = platform
        self.upstreams = upstreams
        # With pushes: _FOR_EVER. Without: the time until which that finding is remembered.
        self._pushed = Times[RepositoryName]()

    async def note_push(self, name: RepositoryName) -> None:
        """Note that a manifest was pushed: from now on only upstreams with `pushed_repositories` are asked."""
        if self.upstreams and self._pushed.get(name) != _FOR_EVER:
            is_noted = await gc_register.note_push(self._platform, name)
            self._pushed.note(name, _FOR_EVER if is_noted else 0.0)

    async def may_answer(self, upstream: Upstream, name: RepositoryName) -> bool:
        """Whether the upstream may be asked for a repository.

        The upstream's repository of the same name may belong to somebody else, so it must not add to a pushed one.
        """
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
        """Return the first result of `ask` that is not None; None if no upstream has the content.

        Raises RegistryError for the client if no upstream has the content and one of them failed; `unknown` is the
        error after a denial. The search for a tag ends at an upstream that fails, because the next one may have another
        image under the same name.
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
