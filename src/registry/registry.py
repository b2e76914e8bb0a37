"""The objects that live as long as the isolate: platform, settings, access control, signing key, upload sessions."""

from registry.access.authenticator import Authenticator
from registry.access.authorizer import Authorizer
from registry.access.challenger import Challenger
from registry.access.signing_key import SigningKey
from registry.ports.platform import Platform
from registry.settings import Settings
from registry.telemetry.metrics import Metrics
from registry.uploads.sessions import Sessions
from registry.upstream.fallback import PullFallback


class Registry:
    """The parts of the registry that every handler gets."""

    def __init__(self, platform: Platform, settings: Settings) -> None:
        self.platform = platform
        self.settings = settings
        self.metrics = Metrics(platform.random_hex(4), platform.points)
        self.health = False, 0.0  # result of the last health check, and when it expires (seconds since the epoch)
        self.signing_key = SigningKey(platform)
        self.authenticator = Authenticator(platform, settings.access, self.signing_key)
        self.challenger = Challenger(settings.access)
        self.authorizer = Authorizer(settings.access.anonymous_pull)
        self.sessions = Sessions(platform, self.signing_key)
        self.fallback = PullFallback(platform, settings.upstreams, self.before_first_write)

    async def before_first_write(self) -> None:
        """Create the signing key if it is missing. Await this before a write outside upload sessions.

        Creating the key also marks an empty bucket as one that needs no migration. After a write it is not empty.
        """
        await self.signing_key.secret()
