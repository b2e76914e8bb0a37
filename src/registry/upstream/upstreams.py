"""The setting REGISTRIES_JSON: upstream registries, in the format of serverless-registry with additional members."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from urllib.parse import SplitResult, urlsplit

from registry.access.permissions import Glob, parse_repository_glob
from registry.setting_lists import check_members, parse_list, read_number
from registry.spec.errors import RegistryError
from registry.spec.names import RepositoryName, is_name, parse_name
from registry.upstream import ecr

DEFAULT_REVALIDATE = 300  # seconds after which a copied tag is compared with the upstream's
DEFAULT_TIMEOUT = 30  # seconds that an upstream may take to begin an answer, or to continue it
_MAX_TIMEOUT = 300
_MAX_REVALIDATE = 365 * 24 * 3600
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
DOCKER_HUB = "https://registry-1.docker.io"
# Registries whose token server is another host. For registries that are not listed, `token_server` names it.
_TOKEN_SERVERS = {
    DOCKER_HUB: "https://auth.docker.io",
    "https://docker.elastic.co": "https://docker-auth.elastic.co",
    "https://registry.digitalocean.com": "https://api.digitalocean.com",
    "https://registry.gitlab.com": "https://gitlab.com",
}

_MEMBERS = (
    "registry",
    "username",
    "password_env",
    "prefix",
    "include",
    "exclude",
    "revalidate",
    "serve_stale",
    "auth",
    "timeout",
    "token_server",
    "pushed_repositories",
)


class Auth(Enum):
    """How to authenticate to an upstream."""

    CHALLENGE = "challenge"  # as the challenge of its 401 answer requires
    BASIC = "basic"  # Basic with every request, even without a challenge
    ECR = "ecr"  # Amazon ECR: user name and password are an access key, exchanged for a password of twelve hours


@dataclass(frozen=True, slots=True)
class Upstream:
    """An upstream registry, which is asked for content that this registry does not have."""

    origin: str  # scheme, host and port
    folder: str  # beginning of all repository names at the upstream: "" or with "/" at its end
    username: str
    password: str
    auth: Auth
    prefix: str  # beginning of the names in this registry, not part of the upstream's: "" or with "/" at its end
    include: tuple[Glob, ...]  # globs of the upstream's names; empty: all names
    exclude: tuple[Glob, ...]
    revalidate: int  # seconds
    serve_stale: bool
    timeout: int  # seconds
    token_server: str  # the origin that gets the credentials besides the upstream itself
    pushed_repositories: bool  # whether it is also asked for repositories to which clients pushed in this registry

    @property
    def has_limits(self) -> bool:
        """Whether the setting limits the repositories for which the upstream is asked."""
        return bool(self.prefix or self.include)

    @property
    def host(self) -> str:
        """Host and port, for messages."""
        return urlsplit(self.origin).netloc

    def name_there(self, name: RepositoryName) -> RepositoryName | None:
        """Return the upstream's name of the repository `name`; None if the upstream is not asked for it."""
        if not name.startswith(self.prefix):
            return None
        there = self.folder + name.removeprefix(self.prefix)
        if self.origin == DOCKER_HUB and "/" not in there:
            there = f"library/{there}"
        try:
            checked = parse_name(there)
        except RegistryError:
            return None
        is_included = not self.include or any(glob.matches(checked) for glob in self.include)
        return checked if is_included and not any(glob.matches(checked) for glob in self.exclude) else None


def parse_upstreams(text: str, variable: Callable[[str], str | None]) -> tuple[Upstream, ...]:
    """Parse REGISTRIES_JSON; `variable` returns a secret by its name. Raises ValueError with a sentence."""
    return parse_list(
        text,
        "registry",
        lambda entry: _parse(entry, variable),
        lambda upstream: f"{upstream.prefix} {upstream.origin}/{upstream.folder}",
    )


def _parse(entry: object, variable: Callable[[str], str | None]) -> Upstream:
    entry = check_members(entry, "registry", _MEMBERS)
    origin, folder = _parse_url(entry["registry"])
    username, password = _credentials(entry, variable)
    auth = _auth(entry.get("auth", Auth.CHALLENGE.value))
    if auth is not Auth.CHALLENGE and not username:
        raise ValueError(f'auth "{auth.value}" needs username and password_env')
    if auth is Auth.ECR and ecr.region_of(urlsplit(origin).hostname or "") is None:
        raise ValueError('auth "ecr" is only for <account>.dkr.ecr.<region>.amazonaws.com')
    return Upstream(
        origin,
        folder,
        username,
        password,
        auth,
        _prefix(entry.get("prefix", "")),
        _globs(entry, "include"),
        _globs(entry, "exclude"),
        read_number(entry, "revalidate", _MAX_REVALIDATE) or DEFAULT_REVALIDATE,
        _switch(entry, "serve_stale", default=True),
        read_number(entry, "timeout", _MAX_TIMEOUT) or DEFAULT_TIMEOUT,
        _token_server(entry, origin),
        _switch(entry, "pushed_repositories", default=False),
    )


def _parse_url(text: object) -> tuple[str, str]:
    url = urlsplit(text if isinstance(text, str) else "")
    if not _is_address(url):
        raise ValueError("registry must be the https URL of a registry, as in https://registry.example.com")
    if f".{url.hostname}".endswith(".docker.io"):
        return DOCKER_HUB, ""  # Docker's own configuration has https://index.docker.io/v1/
    folder = url.path.strip("/")
    if folder and not is_name(folder):
        raise ValueError("the path of registry must begin its repository names, as in https://gcr.io/project")
    return f"{url.scheme}://{url.netloc}", f"{folder}/" if folder else ""


def _is_address(url: SplitResult) -> bool:
    is_secure = url.scheme == "https" or (url.scheme == "http" and url.hostname in _LOOPBACK)
    return bool(is_secure and url.hostname and "@" not in url.netloc and not url.query and not url.fragment)


def _token_server(entry: Mapping[str, object], origin: str) -> str:
    value = entry.get("token_server", _TOKEN_SERVERS.get(origin, origin))
    url = urlsplit(value if isinstance(value, str) else "")
    if not _is_address(url) or url.path.strip("/"):
        raise ValueError(
            "token_server must be the https origin of the registry's token server, as in https://auth.example.com"
        )
    return f"{url.scheme}://{url.netloc}"


def _credentials(entry: Mapping[str, object], variable: Callable[[str], str | None]) -> tuple[str, str]:
    username, password_env = entry.get("username", ""), entry.get("password_env", "")
    if not isinstance(username, str) or not isinstance(password_env, str):
        raise ValueError("username and password_env must be strings")
    if bool(username) != bool(password_env):
        raise ValueError("set both username and password_env, or neither for anonymous pulls")
    # `echo` and `base64` append a line end to a secret. Line ends within it stay: base64 wraps Google's JSON keys.
    password = (variable(password_env) or "").strip() if password_env else ""
    if password_env and not password:
        # The message does not repeat the value: it may be a password, and the message is logged.
        raise ValueError("password_env must be the name of a secret that is set, not the password itself")
    return username, password


def _auth(value: object) -> Auth:
    try:
        return Auth(value)
    except ValueError:
        raise ValueError(f"auth must be one of {', '.join(auth.value for auth in Auth)}") from None


def _prefix(value: object) -> str:
    if value == "":
        return ""
    if not isinstance(value, str) or not is_name(value.removesuffix("/")):
        raise ValueError("prefix must be the first segments of repository names, as in mirror or mirror/hub")
    return f"{value.removesuffix('/')}/"


def _globs(entry: Mapping[str, object], member: str) -> tuple[Glob, ...]:
    value = entry.get(member, [])
    if not isinstance(value, list):
        raise ValueError(f"{member} must be a list of globs of the upstream's repository names")
    return tuple(parse_repository_glob(glob) for glob in value)


def _switch(entry: Mapping[str, object], member: str, *, default: bool) -> bool:
    value = entry.get(member, default)
    if not isinstance(value, bool):
        raise ValueError(f"{member} must be true or false")
    return value
