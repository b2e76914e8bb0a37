"""The challenge of a 401, which tells a client how to authenticate (token specification, "Requesting a Token")."""

from collections.abc import Callable

from registry.access.scopes import scope_of
from registry.access.settings import AccessSettings
from registry.spec.endpoints import Endpoint, ListRepositories
from registry.spec.errors import Problem, RegistryError

# The realm is fixed, since browsers show it to users.
BASIC_CHALLENGE = 'Basic realm="container registry", charset="UTF-8"'
TOKEN_PATH = "/v2/token"  # noqa: S105 - a path


class Challenger:
    """Makes the challenges."""

    def __init__(self, settings: AccessSettings) -> None:
        self._settings = settings

    def challenge(
        self,
        origin: str,
        path: str,
        header: Callable[[str], str | None],
        endpoint: Endpoint | None,
        error: RegistryError,
    ) -> str:
        """The value of WWW-Authenticate, for a request that ended in `error`."""
        authorization = header("authorization")
        is_basic = not self._settings.uses_bearer or path == TOKEN_PATH
        if authorization is None and self._settings.anonymous_pull and isinstance(endpoint, ListRepositories):
            # With a Bearer challenge a registry's web UI would get an anonymous token, and never ask for a password.
            is_basic = True
        if is_basic:
            return BASIC_CHALLENGE
        parameters = {
            "realm": f"{origin}{TOKEN_PATH}",
            "service": origin.partition("://")[2],
            "scope": scope_of(endpoint),
        }
        if error.problem is Problem.TOKEN_TOO_NARROW:
            parameters["error"] = "insufficient_scope"
        elif (authorization or "").lower().startswith("bearer"):
            parameters["error"] = "invalid_token"
        return "Bearer " + ",".join(f'{name}="{value}"' for name, value in parameters.items() if value is not None)
