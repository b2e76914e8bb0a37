"""What lives as long as the isolate: the platform, the settings, the accounts, the key that signs sessions."""

from registry.auth import Accounts
from registry.platform import Platform
from registry.sessions import Sessions
from registry.settings import Settings


class Registry:
    """Handed to every handler."""

    def __init__(self, platform: Platform, settings: Settings) -> None:
        self.platform = platform
        self.settings = settings
        self.accounts = Accounts(settings)
        self.sessions = Sessions(platform)
