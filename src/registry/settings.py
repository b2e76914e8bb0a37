"""All settings, read once per isolate. `docs/settings.md` explains them to the operator.

A setting that serverless-registry has, too, keeps its name.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlsplit

from registry.access.accounts import Account, parse_accounts, plain_account
from registry.access.oidc import parse_issuers
from registry.access.permissions import Glob, Permissions, allow, parse_repository_glob
from registry.access.public_keys import parse_public_keys
from registry.access.settings import DEFAULT_REFRESH_DAYS, AccessSettings
from registry.ports.platform import PART_BUFFER
from registry.spec.endpoints import EVERYTHING, Access, parse_mode
from registry.storage.calls import DEFAULT_CALLS, MAX_CALLS, MIN_CALLS
from registry.telemetry.log import log
from registry.upkeep.retention import parse_rules
from registry.upkeep.settings import DEFAULT_GC_GRACE, UpkeepSettings
from registry.upstream.upstreams import Upstream, parse_upstreams

ANY_ORIGIN = "*"  # in CORS_ORIGINS
CHUNK_STEP = PART_BUFFER  # bytes: a chunk of a multiple of this size fills parts exactly; any rest is stored twice
# Bytes; below the largest request body on Cloudflare's plans Free and Pro, which is 100 MB.
DEFAULT_CHUNK_MAX_LENGTH = 11 * CHUNK_STEP
_MAX_REFRESH_DAYS = 3650

_Variable = Callable[[str], str | None]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Settings:
    """The operator's settings; a setting that is not set has its default."""

    access: AccessSettings = field(default_factory=AccessSettings)
    upkeep: UpkeepSettings = field(default_factory=UpkeepSettings)
    cors_origins: tuple[str, ...] = ()
    public_url: str = ""  # scheme, host and port that clients use; "": those of each request
    sparse_manifests: bool = False
    chunk_max_length: int = DEFAULT_CHUNK_MAX_LENGTH  # bytes
    upstreams: tuple[Upstream, ...] = ()
    r2_calls: int = DEFAULT_CALLS  # limit of one invocation: a cron trigger's, a listing's, a verification's
    prometheus: bool = False  # whether /metrics exists


def read_settings(variable: _Variable) -> Settings:
    """Read all settings. `variable` returns the value of a var or secret, or None. Logs and ignores a wrong value."""
    return Settings(
        access=_access(variable),
        upkeep=_upkeep(variable),
        cors_origins=_parsed("CORS_ORIGINS", variable("CORS_ORIGINS"), _origins, ()),
        public_url=_parsed("PUBLIC_URL", variable("PUBLIC_URL"), _origin, ""),
        sparse_manifests=_parsed("SPARSE_MANIFESTS", variable("SPARSE_MANIFESTS"), _switch, default=False),
        chunk_max_length=_parsed(
            "CHUNK_MAX_LENGTH", variable("CHUNK_MAX_LENGTH"), _chunk_length, DEFAULT_CHUNK_MAX_LENGTH
        ),
        upstreams=_parsed("REGISTRIES_JSON", variable("REGISTRIES_JSON"), lambda text: _upstreams(text, variable), ()),
        r2_calls=_parsed("R2_CALLS", variable("R2_CALLS"), _calls, DEFAULT_CALLS),
        prometheus=_parsed("PROMETHEUS", variable("PROMETHEUS"), _switch, default=False),
    )


def _access(variable: _Variable) -> AccessSettings:
    listed: tuple[Account, ...] = _parsed("ACCOUNTS_JSON", variable("ACCOUNTS_JSON"), parse_accounts, ())
    return AccessSettings(
        accounts=(
            *_pair(variable, "USERNAME", "PASSWORD", allow(EVERYTHING, "**")),
            *_pair(variable, "READONLY_USERNAME", "READONLY_PASSWORD", allow({Access.PULL}, "**")),
            *listed,
        ),
        token_keys=_parsed(
            "JWT_REGISTRY_TOKENS_PUBLIC_KEY", variable("JWT_REGISTRY_TOKENS_PUBLIC_KEY"), parse_public_keys, ()
        ),
        token_audience=variable("JWT_REGISTRY_TOKENS_AUDIENCE") or None,
        issuers=_parsed("OIDC_ISSUERS_JSON", variable("OIDC_ISSUERS_JSON"), parse_issuers, ()),
        anonymous_pull=_parsed("ANONYMOUS_PULL", variable("ANONYMOUS_PULL"), _globs, ()),
        bearer_tokens=_parsed("BEARER_TOKENS", variable("BEARER_TOKENS"), _switch, default=False),
        refresh_seconds=_parsed(
            "REFRESH_TOKEN_DAYS", variable("REFRESH_TOKEN_DAYS"), _days, DEFAULT_REFRESH_DAYS * 24 * 3600
        ),
    )


def _upkeep(variable: _Variable) -> UpkeepSettings:
    return UpkeepSettings(
        gc_mode=_parsed("GC_MODE", variable("GC_MODE"), parse_mode, None),
        gc_grace=_parsed("GC_GRACE", variable("GC_GRACE"), _seconds, DEFAULT_GC_GRACE),
        retention=_parsed("RETENTION_JSON", variable("RETENTION_JSON"), parse_rules, ()),
        retention_applies=_parsed("RETENTION_APPLIES", variable("RETENTION_APPLIES"), _switch, default=False),
    )


def _parsed(setting: str, value: str | None, parse: Callable[[str], _T], default: _T) -> _T:
    if not value:
        return default
    try:
        return parse(value)
    except ValueError as error:
        log("setting-ignored", setting=setting, help=str(error))
        return default


def _pair(variable: _Variable, name_setting: str, secret_setting: str, permissions: Permissions) -> tuple[Account, ...]:
    name, secret = variable(name_setting), variable(secret_setting)
    if name and secret:
        return _parsed(name_setting, name, lambda given: (plain_account(given, secret, permissions),), ())
    if name or secret:
        given, missing = (name_setting, secret_setting) if name else (secret_setting, name_setting)
        log("setting-ignored", setting=given, help=f"{missing} is not set")
    return ()


def _upstreams(text: str, variable: _Variable) -> tuple[Upstream, ...]:
    upstreams = parse_upstreams(text, variable)
    for upstream in upstreams:
        if not upstream.has_limits:
            log(
                "upstream-without-limits",
                upstream=upstream.host,
                help="this upstream registry is asked for every repository that nobody pushed to here, and learns its "
                "name: give it a prefix or include",
            )
    return upstreams


def _globs(text: str) -> tuple[Glob, ...]:
    return tuple(parse_repository_glob(glob) for glob in text.replace(",", " ").split())


def _switch(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError("must be true or false")
    return text == "true"


def _seconds(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ValueError("must be a number of seconds")
    return int(text)


def _origins(text: str) -> tuple[str, ...]:
    """Parse origins, which may include ANY_ORIGIN."""
    origins = tuple(text.replace(",", " ").split())
    for origin in origins:
        url = urlsplit(origin)
        if origin not in (ANY_ORIGIN, f"{url.scheme}://{url.netloc}"):
            raise ValueError("an origin must be scheme, host and port, for example https://ui.example.com")
    return origins


def _origin(text: str) -> str:
    url = urlsplit(text.removesuffix("/"))
    if (
        url.scheme not in ("https", "http")
        or not url.hostname
        or "@" in url.netloc
        or url.geturl() != f"{url.scheme}://{url.netloc}"
    ):
        raise ValueError("must be scheme and host, for example https://registry.example.com")
    return url.geturl()


def _days(text: str) -> int:
    days = int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else 0
    if not 0 < days <= _MAX_REFRESH_DAYS:
        raise ValueError(f"must be a number of days from 1 to {_MAX_REFRESH_DAYS}")
    return days * 24 * 3600


def _calls(text: str) -> int:
    count = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0
    if not MIN_CALLS <= count <= MAX_CALLS:
        raise ValueError(f"must be a number from {MIN_CALLS} to {MAX_CALLS}")
    return count


def _chunk_length(text: str) -> int:
    size = int(text) if text.isascii() and text.isdigit() else 0
    if size == 0 or size % CHUNK_STEP:
        raise ValueError(f"must be a number of bytes that is a multiple of {CHUNK_STEP}")
    return size
