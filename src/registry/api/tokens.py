"""The token endpoint of the distribution project: by GET with Basic credentials, by POST as OAuth2 does."""

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
_FORM_SECONDS = 10.0  # that a form may take to arrive
# The form field that holds the secret (RFC 6749, sections 4.3 and 6; RFC 8693, section 2.1).
_GRANTS = {
    "password": "password",
    "refresh_token": "refresh_token",
    "urn:ietf:params:oauth:grant-type:token-exchange": "subject_token",
}


async def get_token(registry: Registry, endpoint: GetToken, request: Request) -> Response:
    """A token for what of the scopes the account may."""
    _demand_enabled(registry)
    identity = await registry.authenticator.identify_for_token(request.header)
    return await _answer(registry, identity, endpoint.scopes, with_refresh=endpoint.offline)


async def post_token(registry: Registry, endpoint: PostToken, request: Request) -> Response:
    """The same with a form; the scopes stand in one field."""
    _demand_enabled(registry)
    forms = registry.platform.forms
    async with document(registry.platform, forms, request.body, _MAX_FORM, seconds=_FORM_SECONDS) as read:
        if len(read.data) > _MAX_FORM:
            raise RegistryError(Problem.BAD_REQUEST, f"the form has at most {_MAX_FORM} bytes")
        form = Query(read.data.decode("latin-1"))
    grant = form.one("grant_type")
    field = _GRANTS.get(grant or "")
    secret = form.one(field) if field else None
    if secret is None:
        raise RegistryError(
            Problem.BAD_REQUEST, f"the form has grant_type ({', '.join(_GRANTS)}) and the field that goes with it"
        )
    identity = await registry.authenticator.identify_by_secret(form.one("username") or "", secret, request.header)
    # A refresh token is renewed by use.
    with_refresh = grant == "refresh_token" or form.one("access_type") == "offline"
    return await _answer(registry, identity, form.all("scope"), with_refresh=with_refresh)


def _demand_enabled(registry: Registry) -> None:
    if not registry.settings.access.uses_bearer:
        raise RegistryError(Problem.NOT_FOUND, "this registry issues no tokens: its operator can set BEARER_TOKENS")


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
