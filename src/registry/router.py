"""One request: who calls, what is asked, may they, the handler from the table, the answer."""

import traceback
from collections.abc import Awaitable, Callable
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from registry.callers import Caller
from registry.cors import headers_for, is_forged, isolating_headers, preflight
from registry.endpoints import (
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
from registry.errors import Problem, RegistryError, is_cpu_limit
from registry.handle_blobs import delete_blob, get_blob, head_blob
from registry.handle_discovery import list_referrers, list_repositories, list_tags
from registry.handle_maintenance import collect_garbage, migrate, preview_retention, verify_repository
from registry.handle_manifests import delete_manifest, get_manifest, head_manifest, put_manifest
from registry.handle_service import check_health, show_front_page, show_metrics
from registry.handle_tokens import get_token, post_token
from registry.handle_uploads import (
    append_chunk,
    cancel_upload,
    close_upload,
    get_upload,
    mount_blob,
    start_upload,
    start_upload_for,
    upload_blob,
)
from registry.http import Request, Response, json_response
from registry.log import log
from registry.paths import parse
from registry.registry import Registry
from registry.request_log import report
from registry.request_record import RequestRecord, current, ray_id
from registry.storage import ClientGone, StorageBusy, StorageError
from registry.transfer import drain

# Every answer names the API version, as Docker's clients look for it before they log in.
_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}
_CPU_LIMIT = "this took all the CPU time of a request: limits.cpu_ms in wrangler.toml allows more"
_RETRY_AFTER = {"Retry-After": "1"}  # seconds: R2 takes one write a second to a key
_ID_BYTES = 8  # of a request's id, where Cloudflare gave it none

Handler = Callable[[Registry, Any, Request], Awaitable[Response]]


async def check_version(registry: Registry, endpoint: CheckVersion, request: Request) -> Response:
    """end-1: this is a registry, and the credentials are right."""
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
    """Answer a request; whatever goes wrong is an OCI error, never an exception."""
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
        # Nobody reads this answer; it only ends the request.
        response = _render(RegistryError(Problem.UPLOAD_INVALID, "the request's body broke off"), record)
    except Exception:  # the last line of defence: a stack trace is for the log, never for the client
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
        raise RegistryError(Problem.DENIED, "a web page of another origin sent this: CORS_ORIGINS names those that may")
    try:
        endpoint = record.endpoint = await _parse(registry, request)
        if not isinstance(endpoint, Open):
            caller = await registry.auth.identify(request)
            record.account = None if caller is None else caller.name or None
            endpoint = registry.auth.admit(caller, endpoint)
        response = await _HANDLERS[type(endpoint)](registry, endpoint, replace(request, caller=caller))
    except RegistryError as error:
        if error.account is not None:
            record.account = error.account
        if error.problem.status == HTTPStatus.UNAUTHORIZED:
            challenge = registry.auth.challenge(request, record.endpoint, error)
            error.headers = {**error.headers, "WWW-Authenticate": challenge}
        raise
    headers = {**_VERSION, **response.headers}
    if caller is None and "Cache-Control" in headers:
        # What anybody may pull, caches in between may keep.
        headers["Cache-Control"] = headers["Cache-Control"].replace("private", "public")
    return Response(response.status, headers, response.body)


async def _parse(registry: Registry, request: Request) -> Endpoint:
    """What is asked for. Strangers are not told which paths there are."""
    try:
        return parse(request.method, request.path, request.query)
    except RegistryError as error:
        is_stranger = await registry.auth.identify(request) is None
        raise RegistryError(Problem.UNAUTHORIZED) if is_stranger else error from None


def _render(error: RegistryError, record: RequestRecord) -> Response:
    """The error's answer. Clients show no more than its message, so what only the log explains names its line there."""
    record.reason = error.message
    status = error.problem.status
    entries = error.entries()
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        entries = [{**entry, "message": f"{error.message} (request {record.id})"} for entry in entries]
    return json_response(status, {"errors": entries, "request": record.id}, {**_VERSION, **error.headers})
