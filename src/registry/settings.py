"""Every setting, read once. Their names are SR's; `wrangler.toml.example` explains them to the operator."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator set; empty where nothing is set."""

    username: str = ""
    password: str = ""
    readonly_username: str = ""
    readonly_password: str = ""


def read_settings(variable: Callable[[str], str | None]) -> Settings:
    """Read the settings; `variable` gives the value of a var or secret, or None."""
    return Settings(
        username=variable("USERNAME") or "",
        password=variable("PASSWORD") or "",
        readonly_username=variable("READONLY_USERNAME") or "",
        readonly_password=variable("READONLY_PASSWORD") or "",
    )
