"""Every setting, read once. Their names are SR's; `wrangler.toml.example` explains them to the operator."""

from collections.abc import Callable
from dataclasses import dataclass

from registry.log import log
from registry.platform import PART_BUFFER

CHUNK_STEP = PART_BUFFER  # bytes: chunks of a multiple of it leave nothing over that is stored twice
# Bytes. Cloudflare takes bodies of 100 MB on Free and Pro.
DEFAULT_CHUNK_MAX_LENGTH = 11 * CHUNK_STEP


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator set; empty where nothing is set."""

    username: str = ""
    password: str = ""
    readonly_username: str = ""
    readonly_password: str = ""
    chunk_max_length: int = DEFAULT_CHUNK_MAX_LENGTH  # bytes


def read_settings(variable: Callable[[str], str | None]) -> Settings:
    """Read the settings; `variable` gives the value of a var or secret, or None. A wrong one is logged and ignored."""
    return Settings(
        username=variable("USERNAME") or "",
        password=variable("PASSWORD") or "",
        readonly_username=variable("READONLY_USERNAME") or "",
        readonly_password=variable("READONLY_PASSWORD") or "",
        chunk_max_length=_chunk_max_length(variable("CHUNK_MAX_LENGTH")),
    )


def _chunk_max_length(value: str | None) -> int:
    if not value:
        return DEFAULT_CHUNK_MAX_LENGTH
    size = int(value) if value.isascii() and value.isdigit() else 0
    if size == 0 or size % CHUNK_STEP:
        log("setting-ignored", setting="CHUNK_MAX_LENGTH", help=f"it is a number of bytes, a multiple of {CHUNK_STEP}")
        return DEFAULT_CHUNK_MAX_LENGTH
    return size
