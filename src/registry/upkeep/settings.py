"""What the operator set about the clean-up."""

from dataclasses import dataclass

from registry.spec.endpoints import Mode
from registry.upkeep.retention import RetentionRule

DEFAULT_GC_GRACE = 3600  # seconds that a blob without a manifest stays


@dataclass(frozen=True, slots=True)
class UpkeepSettings:
    """What is collected, and when."""

    gc_mode: Mode | None = None  # of the clean-up that runs by itself; None: it collects nothing
    gc_grace: int = DEFAULT_GC_GRACE  # seconds
    retention: tuple[RetentionRule, ...] = ()
    retention_applies: bool = False  # else the rules are only shown
