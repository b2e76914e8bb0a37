"""The operator's settings for the clean-up."""

from dataclasses import dataclass

from registry.spec.endpoints import Mode
from registry.upkeep.retention import RetentionRule

DEFAULT_GC_GRACE = 3600  # seconds for which a blob without a manifest stays


@dataclass(frozen=True, slots=True)
class UpkeepSettings:
    """What the clean-up collects, and after which time."""

    gc_mode: Mode | None = None  # of the scheduled clean-up; None: only what deletions and retention leave
    gc_grace: int = DEFAULT_GC_GRACE  # seconds
    retention: tuple[RetentionRule, ...] = ()
    retention_applies: bool = False  # False: the rules delete nothing, and GET /v2/_retention previews them
