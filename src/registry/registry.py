"""What lives as long as the isolate: the platform, the settings, who may come in, the key that signs."""

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
    """Handed to every handler."""

    def __init__(self, platform: Platform, settings: Settings) -> None:
        self.platform = platform
        self.settings = settings
        self.metrics = Metrics(platform.random_hex(4), platform.points)
        self.health = False, 0.0  # what the last look found, and until when it holds (seconds since the epoch)
        self.signing_key = SigningKey(platform)
        self.authenticator = Authenticator(platform, settings.access, self.signing_key)
        self.challenger = Challenger(settings.access)
        self.authorizer = Authorizer(settings.access.anonymous_pull)
        self.sessions = Sessions(platform, self.signing_key)
        self.fallback = PullFallback(platform, settings.upstreams, self.before_first_write)

    async def before_first_write(self) -> None:
        """To be awaited before the bucket is written to by what needs no session.

        Who makes the signing key first notes whether the bucket was empty, hence has nothing of SR's to migrate.
        """
        await self.signing_key.secret()
