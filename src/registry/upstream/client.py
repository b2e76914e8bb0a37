"""Sends pull requests to upstream registries: follows redirects and authenticates when the upstream asks for it."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from registry.ports.platform import Platform
from registry.ports.web import WebResponse
from registry.spec.names import RepositoryName
from registry.upstream.credentials import Credentials
from registry.upstream.exchange import HEADERS, Answer, Exchange, UpstreamError, answer_of, origin_of, resolve
from registry.upstream.upstreams import Upstream

_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DENIALS = frozenset({401, 403})
_MAX_RETRY_AFTER = 9  # digits


class UpstreamClient:
    """Sends requests to upstreams. Keeps their tokens for the life of the isolate."""

    def __init__(self, platform: Platform) -> None:
        self._exchange = Exchange(platform)
        self._credentials = Credentials(platform, self._exchange)
        self.read = self._exchange.read

    async def ask(
        self,
        upstream: Upstream,
        method: str,
        name: RepositoryName,
        path: str,
        headers: Mapping[str, str] | None = None,
    ) -> Answer | None:
        """Request `path` below the upstream's repository `name`; return None if the upstream answers 404.

        Raises UpstreamError for any other failure.
        """
        url = f"{upstream.origin}/v2/{name}/{path}"
        headers = {**HEADERS, **(headers or {})}
        response, host = await self._follow(upstream, method, url, headers, self._credentials.known(upstream, name))
        if response.status == 401:
            await response.body.cancel()
            if host is not None:
                # The upstream's password must not go to another server.
                raise UpstreamError(upstream, f"redirects to {host}, which asks for credentials")
            challenge = response.header("www-authenticate") or ""
            authorization = await self._credentials.obtain(upstream, name, challenge)
            response, _ = await self._follow(upstream, method, url, headers, authorization)
        if response.status == 200 or (response.status == 206 and "Range" in headers):
            return answer_of(response)
        await response.body.cancel()
        if response.status == 404:
            return None
        if response.status in _DENIALS:
            self._credentials.forget(upstream, name)
            raise UpstreamError(upstream, f"denies access to {name}, or does not have it", is_denial=True)
        retry_after = response.header("retry-after") or ""
        raise UpstreamError(
            upstream,
            f"answered {response.status}",
            retry_after=retry_after if _is_number(retry_after) else None,
            status=response.status,
        )

    async def _follow(
        self, upstream: Upstream, method: str, url: str, headers: Mapping[str, str], authorization: str | None
    ) -> tuple[WebResponse, str | None]:
        """Send a request and follow redirects. Only the upstream's own origin gets the credentials.

        Returns the answer, and the host that sent it; the host is None if no redirect left the upstream's origin.
        """
        is_own = True
        for _ in range(_MAX_REDIRECTS + 1):
            # After a redirect to another host no request has credentials, even back at the upstream: otherwise that
            # host would choose the path that is read with these credentials.
            is_own = is_own and origin_of(url) == upstream.origin
            sent = {**headers, "Authorization": authorization} if authorization and is_own else headers
            response = await self._exchange.fetch(upstream, method, url, sent)
            location = response.header("location")
            if response.status not in _REDIRECTS or location is None:
                return response, None if is_own else urlsplit(url).netloc
            await response.body.cancel()
            url = resolve(upstream, url, location)
        raise UpstreamError(upstream, f"redirects more than {_MAX_REDIRECTS} times")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _MAX_RETRY_AFTER
