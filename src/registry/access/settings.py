"""What the operator set about access."""

from dataclasses import dataclass

from registry.access.accounts import Account
from registry.access.oidc import Issuer
from registry.access.permissions import Glob
from registry.ports.crypto import PublicKey

DEFAULT_REFRESH_DAYS = 30  # that a refresh token is good for; each use brings a new one


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """Who may come in, and how; empty where nothing is set."""

    accounts: tuple[Account, ...] = ()
    token_keys: tuple[PublicKey, ...] = ()
    token_audience: str | None = None  # demanded of signed tokens, when set
    issuers: tuple[Issuer, ...] = ()
    anonymous_pull: tuple[Glob, ...] = ()
    bearer_tokens: bool = False
    refresh_seconds: int = DEFAULT_REFRESH_DAYS * 24 * 3600

    @property
    def uses_bearer(self) -> bool:
        """Whether clients are sent to the token endpoint: what is anonymous or comes by OIDC works only there."""
        return self.bearer_tokens or bool(self.anonymous_pull or self.issuers)
