"""Handles a request: parses the endpoint, authenticates and authorizes the caller, calls the endpoint's handler.

Every error becomes an answer in the format of the OCI Distribution Specification.
"""

import traceback
from collections.abc import Awaitable, Callable
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from registry.access.callers import Caller
from registry.api.blobs import delete_blob, get_blob, head_blob
from registry.api.cors import headers_for, is_forged, isolating_headers, preflight
from registry.api.http import Request, Response, json_response
from registry.api.listings import list_referrers, list_repositories, list_tags
from registry.api.maintenance import collect_garbage, migrate, preview_retention, verify_repository
from registry.api.manifests import delete_manifest, get_manifest, head_manifest, put_manifest
from registry.api.request_log import report
from registry.api.service import check_health, show_front_page, show_metrics
from registry.api.tokens import get_token, post_token
from registry.api.uploads import (
    append_chunk,
    cancel_upload,
    close_upload,
    get_upload,
    mount_blob,
    start_upload,
    start_upload_for,
    upload_blob,
)
from registry.ports.storage import ClientGone, StorageBusy, StorageError
from registry.registry import Registry
from registry.spec.endpoints import (
    AppendChunk,
    CancelUpload,
    CheckHealth,
    CheckVersion,
    CloseUpload,
    CollectGarbage,
    DeleteBlob,
    DeleteManifest,
    Endpoint,
    GetBlob,
    GetManifest,
    GetToken,
    GetUpload,
    HeadBlob,
    HeadManifest,
    ListReferrers,
    ListRepositories,
    ListTags,
    Migrate,
    MountBlob,
    Open,
    PostToken,
    PreviewRetention,
    PutManifest,
    ShowFrontPage,
    ShowMetrics,
    StartUpload,
    StartUploadFor,
    UploadBlob,
    VerifyRepository,
)
from registry.spec.errors import Problem, RegistryError, is_cpu_limit
from registry.spec.paths import parse
from registry.storage.transfer import drain
from registry.telemetry.log import log
from registry.telemetry.request_record import RequestRecord, current, ray_id

# Every answer names the API version, which Docker's clients look for before they log in.
_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}
_CPU_LIMIT = "this took all the CPU time of a request: limits.cpu_ms in wrangler.toml allows more"
_RETRY_AFTER = {"Retry-After": "1"}  # seconds: R2 takes one write a second to a key
_ID_BYTES = 8  # of a request id, if Cloudflare sent none

Handler = Callable[[Registry, Any, Request], Awaitable[Response]]


async def check_version(registry: Registry, endpoint: CheckVersion, request: Request) -> Response:
    """end-1: 200 tells that this is a registry and that the credentials are valid."""
    return json_response(200, {})


_HANDLERS: dict[type[Endpoint], Handler] = {
    ShowFrontPage: show_front_page,
    CheckHealth: check_health,
    ShowMetrics: show_metrics,
    CheckVersion: check_version,
    GetBlob: get_blob,
    HeadBlob: head_blob,
    GetManifest: get_manifest,
    HeadManifest: head_manifest,
    PutManifest: put_manifest,
    ListReferrers: list_referrers,
    ListTags: list_tags,
    ListRepositories: list_repositories,
    GetToken: get_token,
    PostToken: post_token,
    Migrate: migrate,
    CollectGarbage: collect_garbage,
    VerifyRepository: verify_repository,
    PreviewRetention: preview_retention,
    DeleteManifest: delete_manifest,
    DeleteBlob: delete_blob,
    StartUpload: start_upload,
    StartUploadFor: start_upload_for,
    MountBlob: mount_blob,
    UploadBlob: upload_blob,
    AppendChunk: append_chunk,
    CloseUpload: close_upload,
    GetUpload: get_upload,
    CancelUpload: cancel_upload,
}


async def handle(registry: Registry, request: Request) -> Response:
    """Answer a request. Every failure becomes an OCI error; this function raises no exception."""
    started = registry.platform.now()
    record = RequestRecord(ray_id(request.header("cf-ray")) or registry.platform.random_hex(_ID_BYTES))
    token = current.set(record)
    if registry.settings.public_url:
        request = replace(request, origin=registry.settings.public_url)
    try:
        origins = registry.settings.cors_origins
        response = preflight(origins, request) or await _answer(registry, request, record)
        headers = {
            **isolating_headers(origins, request.header),
            **response.headers,
            **headers_for(origins, request.header),
            "X-Request-Id": record.id,
        }
        response = Response(response.status, headers, response.body)
        report(request, response, record, registry.metrics, registry.platform.now() - started)
        return response
    finally:
        current.reset(token)


async def _answer(registry: Registry, request: Request, record: RequestRecord) -> Response:
    try:
        response = await _dispatch(registry, request, record)
    except RegistryError as error:
        response = _render(error, record)
    except StorageBusy:
        response = _render(RegistryError(Problem.TOO_MANY_REQUESTS, headers=_RETRY_AFTER), record)
    except StorageError as error:
        log("storage-failed", error=str(error))
        response = _render(RegistryError(Problem.UNAVAILABLE, headers=_RETRY_AFTER), record)
    except ClientGone:
        # The client is gone and will not read this answer.
        response = _render(RegistryError(Problem.UPLOAD_INVALID, "the request's body broke off; try again"), record)
    except Exception:  # a bug of this registry: the stack trace goes to the log, never to the client
        log("internal-error", trace=traceback.format_exc())
        response = _render(RegistryError(Problem.INTERNAL), record)
    except BaseException as error:
        if not is_cpu_limit(error):
            raise
        log("cpu-limit", trace=traceback.format_exc())
        response = _render(RegistryError(Problem.UNAVAILABLE, _CPU_LIMIT, headers=_RETRY_AFTER), record)
    if response.status >= HTTPStatus.BAD_REQUEST:
        await drain(registry.platform, request.body)
    return response


async def _dispatch(registry: Registry, request: Request, record: RequestRecord) -> Response:
    caller: Caller | None = None
    if is_forged(registry.settings.cors_origins, request):
        reason = "a web page of another origin sent this request: the operator can allow that origin with CORS_ORIGINS"
        raise RegistryError(Problem.DENIED, reason)
    try:
        endpoint = record.endpoint = await _parse(registry, request)
        if not isinstance(endpoint, Open):
            caller = await registry.authenticator.identify(request.header)
            record.account = None if caller is None else caller.name or None
            endpoint = registry.authorizer.admit(caller, endpoint)
        response = await _HANDLERS[type(endpoint)](registry, endpoint, replace(request, caller=caller))
    except RegistryError as error:
        if error.account is not None:
            record.account = error.account
        if error.problem.status == HTTPStatus.UNAUTHORIZED:
            challenge = registry.challenger.challenge(
                request.origin, request.path, request.header, record.endpoint, error
            )
            error.headers = {**error.headers, "WWW-Authenticate": challenge}
        raise
    headers = {**_VERSION, **response.headers}
    if caller is None and "Cache-Control" in headers:
        # Shared caches may keep what anonymous clients may pull.
        headers["Cache-Control"] = headers["Cache-Control"].replace("private", "public")
    return Response(response.status, headers, response.body)


async def _parse(registry: Registry, request: Request) -> Endpoint:
    """Return the requested endpoint. Anonymous callers get 401 for every invalid path, so they learn no valid paths."""
    try:
        return parse(request.method, request.path, request.query)
    except RegistryError as error:
        is_stranger = await registry.authenticator.identify(request.header) is None
        raise RegistryError(Problem.UNAUTHORIZED) if is_stranger else error from None


def _render(error: RegistryError, record: RequestRecord) -> Response:
    """Render an error. Clients show only its message; for server errors it has the request id, to find the log line."""
    record.reason = error.message
    status = error.problem.status
    entries = error.entries()
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        entries = [{**entry, "message": f"{error.message} (request {record.id})"} for entry in entries]
    return json_response(status, {"errors": entries, "request": record.id}, {**_VERSION, **error.headers})
