"""The operator's settings for access control."""

from dataclasses import dataclass

from registry.access.accounts import Account
from registry.access.oidc import Issuer
from registry.access.permissions import Glob
from registry.ports.crypto import PublicKey

DEFAULT_REFRESH_DAYS = 30  # that a refresh token is valid; each use returns a new one


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """Accounts, keys and issuers for authentication, and what everybody may pull."""

    accounts: tuple[Account, ...] = ()
    token_keys: tuple[PublicKey, ...] = ()
    token_audience: str | None = None  # the `aud` that signed tokens must have; None: any
    issuers: tuple[Issuer, ...] = ()
    anonymous_pull: tuple[Glob, ...] = ()
    bearer_tokens: bool = False
    refresh_seconds: int = DEFAULT_REFRESH_DAYS * 24 * 3600

    @property
    def uses_bearer(self) -> bool:
        """Whether challenges point to the token endpoint. Anonymous pulls and identity tokens need it."""
        return self.bearer_tokens or bool(self.anonymous_pull or self.issuers)
