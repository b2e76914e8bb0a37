"""Decides which token servers may get a registry's password: the registry's own host, and few others.

A registry names its token server in each challenge. An attacker who can answer for the registry could name another.
"""

from dataclasses import dataclass

import httpx

from registry_push.failures import Refused
from registry_push.references import Registry, is_loopback

# Each for its own registry only: another registry that names the same server would get that account's tokens.
_WELL_KNOWN = {
    "registry-1.docker.io": "auth.docker.io",
    "registry.gitlab.com": "gitlab.com",
    "registry.digitalocean.com": "api.digitalocean.com",
}


@dataclass(frozen=True, slots=True)
class TokenServers:
    """The trusted token servers of one registry; `named` are the hosts of --token-server, with non-default ports."""

    registry: Registry
    named: frozenset[str] = frozenset()
    insecure: bool = False  # plain HTTP is allowed

    def check(self, realm: str, *, with_secret: bool) -> httpx.URL:
        """The URL of the token server that a challenge names; raises Refused when it must not be asked.

        `with_secret` means that the request would carry the password or an identity token.
        """
        host = self.registry.host
        try:
            url = httpx.URL(realm)
        except httpx.InvalidURL:
            url = httpx.URL("")
        if url.scheme not in ("http", "https") or not url.host or url.userinfo:
            raise Refused(f"{host} names a token server with an invalid URL; ask its operator")
        local = is_loopback(url.host) and is_loopback(host)
        if url.scheme == "http" and not (local or self.insecure):
            raise Refused(f"the token server {url.host} uses plain HTTP, which exposes tokens; --insecure allows it")
        if with_secret and not self._is_trusted(url):
            netloc = url.netloc.decode()
            raise Refused(
                f"{host} names {netloc} as its token server; the password was not sent to this other host; "
                f"if you trust it, pass --token-server {netloc}"
            )
        return url

    def _is_trusted(self, url: httpx.URL) -> bool:
        netloc, ours = url.netloc.decode(), httpx.URL(self.registry.origin)
        if url.netloc == ours.netloc or netloc in self.named or netloc == _WELL_KNOWN.get(ours.host):
            return True
        # Another port of the same host: the certificate proves that it is the same host.
        return url.scheme == "https" and url.host == ours.host
