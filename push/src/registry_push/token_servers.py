"""Who gives the tokens of a registry, and so gets its password: the registry itself, and few others.

A registry names its token server in each challenge. Whoever can answer for the registry could name a server of his own.
"""

from dataclasses import dataclass

import httpx

from registry_push.failures import Refused
from registry_push.references import Registry, is_loopback

# Of each registry alone: another one that names the same server would get what the password opens there.
_WELL_KNOWN = {
    "registry-1.docker.io": "auth.docker.io",
    "registry.gitlab.com": "gitlab.com",
    "registry.digitalocean.com": "api.digitalocean.com",
}


@dataclass(frozen=True, slots=True)
class TokenServers:
    """Those of one registry; `named` are hosts (with a port that is not HTTPS's) that a person trusts with it."""

    registry: Registry
    named: frozenset[str] = frozenset()
    insecure: bool = False  # plain HTTP is allowed

    def check(self, realm: str, *, with_secret: bool) -> httpx.URL:
        """The address of the token server that a challenge names; raises Refused when it may not be asked.

        `with_secret` means that the password, or what is as good as one, would go there.
        """
        host = self.registry.host
        try:
            url = httpx.URL(realm)
        except httpx.InvalidURL:
            url = httpx.URL("")
        if url.scheme not in ("http", "https") or not url.host or url.userinfo:
            raise Refused(f"{host} names a token server that is no address")
        local = is_loopback(url.host) and is_loopback(host)
        if url.scheme == "http" and not (local or self.insecure):
            raise Refused(f"the token server {url.host} is not asked over plain HTTP; --insecure allows it")
        if with_secret and not self._is_trusted(url):
            netloc = url.netloc.decode()
            raise Refused(
                f"{host} names {netloc} as its token server, which is another host, so the password is not sent there; "
                f"if you trust it: --token-server {netloc}"
            )
        return url

    def _is_trusted(self, url: httpx.URL) -> bool:
        netloc, ours = url.netloc.decode(), httpx.URL(self.registry.origin)
        if url.netloc == ours.netloc or netloc in self.named or netloc == _WELL_KNOWN.get(ours.host):
            return True
        # Another port of the same host: its certificate says that it is the same.
        return url.scheme == "https" and url.host == ours.host
