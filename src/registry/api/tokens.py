"""Handlers for the token endpoint (distribution project): GET with Basic credentials, POST with an OAuth2 form."""

from datetime import UTC, datetime

from registry.access.authenticator import Identity
from registry.access.scopes import parse_scopes
from registry.api.http import Request, Response, json_response
from registry.registry import Registry
from registry.spec.endpoints import GetToken, PostToken
from registry.spec.errors import Problem, RegistryError
from registry.spec.paths import Query
from registry.storage.transfer import document
from registry.telemetry.request_record import note_account

_MAX_FORM = 32 * 1024  # bytes
_FORM_SECONDS = 10.0  # within which a form must arrive
# For each grant type, the form field that has the secret (RFC 6749, sections 4.3 and 6; RFC 8693, section 2.1).
_GRANTS = {
    "password": "password",
    "refresh_token": "refresh_token",
    "urn:ietf:params:oauth:grant-type:token-exchange": "subject_token",
}


async def get_token(registry: Registry, endpoint: GetToken, request: Request) -> Response:
    """Issue a token for those of the requested scopes that the account is allowed."""
    _demand_enabled(registry)
    identity = await registry.authenticator.identify_for_token(request.header)
    return await _answer(registry, identity, endpoint.scopes, with_refresh=endpoint.offline)


async def post_token(registry: Registry, endpoint: PostToken, request: Request) -> Response:
    """Issue a token like `get_token`, with credentials and scopes from a form."""
    _demand_enabled(registry)
    forms = registry.platform.forms
    async with document(registry.platform, forms, request.body, _MAX_FORM, seconds=_FORM_SECONDS) as read:
        if len(read.data) > _MAX_FORM:
            raise RegistryError(Problem.BAD_REQUEST, f"the form is too large: at most {_MAX_FORM} bytes are allowed")
        form = Query(read.data.decode("latin-1"))
    grant = form.one("grant_type")
    field = _GRANTS.get(grant or "")
    secret = form.one(field) if field else None
    if secret is None:
        raise RegistryError(
            Problem.BAD_REQUEST, f"the form needs grant_type ({', '.join(_GRANTS)}) and the secret of that grant"
        )
    identity = await registry.authenticator.identify_by_secret(form.one("username") or "", secret, request.header)
    # Each use of a refresh token renews it.
    with_refresh = grant == "refresh_token" or form.one("access_type") == "offline"
    return await _answer(registry, identity, form.all("scope"), with_refresh=with_refresh)


def _demand_enabled(registry: Registry) -> None:
    if not registry.settings.access.uses_bearer:
        raise RegistryError(Problem.NOT_FOUND, "tokens are disabled: the operator can enable them with BEARER_TOKENS")


async def _answer(
    registry: Registry, identity: Identity, scopes: tuple[str, ...] | list[str], *, with_refresh: bool
) -> Response:
    tokens, caller = registry.authenticator.tokens, identity.caller
    note_account(caller.name)
    now = datetime.fromtimestamp(int(registry.platform.now()), UTC)
    token, seconds = await tokens.issue_access(
        caller.name, parse_scopes(scopes), registry.authorizer.allowed(caller), identity.expires
    )
    answer: dict[str, object] = {
        "token": token,
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": seconds,
        "issued_at": now.isoformat().replace("+00:00", "Z"),
    }
    refresh = await registry.authenticator.refresh_token(identity) if with_refresh else None
    if refresh is not None:
        answer["refresh_token"] = refresh
    return json_response(200, answer, {"Cache-Control": "no-store"})
