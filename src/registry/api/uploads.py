"""Handlers for blob uploads: end-4 (start), 5 (chunk), 6 (close), 11 (mount), 13 (status) and 14 (cancel)."""

from registry.api.http import Request, Response
from registry.content import blobs
from registry.ports.storage import MAX_PUT_SIZE, ChecksumMismatch
from registry.registry import Registry
from registry.spec.endpoints import (
    AppendChunk,
    CancelUpload,
    CloseUpload,
    GetBlob,
    GetUpload,
    InSession,
    MountBlob,
    StartUpload,
    StartUploadFor,
    UploadBlob,
)
from registry.spec.errors import Problem, RegistryError
from registry.spec.names import ALGORITHMS, Digest, RepositoryName
from registry.spec.paths import build
from registry.spec.ranges import parse_chunk_range, upload_range
from registry.uploads.log import OutOfDate, State, gone
from registry.uploads.parts import SMALL_PART
from registry.uploads.sessions import new_uuid
from registry.uploads.upload import Upload, mismatch


async def start_upload(registry: Registry, endpoint: StartUpload, request: Request) -> Response:
    """end-4a: 202 with the location of a new upload session."""
    session = await registry.sessions.issue(endpoint.name)
    answer = _progress(202, GetUpload(endpoint.name, session, None), State())
    lengths = {
        "OCI-Chunk-Min-Length": str(SMALL_PART),
        "OCI-Chunk-Max-Length": str(registry.settings.chunk_max_length),
    }
    return Response(answer.status, {**answer.headers, **lengths})


async def mount_blob(registry: Registry, endpoint: MountBlob, request: Request) -> Response:
    """end-11: 201 when the blob was mounted; else 202 like end-4a, so that the client uploads it."""
    source = endpoint.source
    if source is None or not await blobs.mount(registry.platform, endpoint.name, endpoint.digest, source):
        return await start_upload(registry, StartUpload(endpoint.name), request)
    return _created(endpoint.name, endpoint.digest)


async def start_upload_for(registry: Registry, endpoint: StartUploadFor, request: Request) -> Response:
    """end-4c: like end-4a. The algorithm only matters when the session is closed."""
    if endpoint.algorithm not in ALGORITHMS:
        known = " and ".join(ALGORITHMS)
        raise RegistryError(Problem.DIGEST_INVALID, f"digest algorithm not supported: use one of {known}")
    return await start_upload(registry, StartUpload(endpoint.name), request)


async def upload_blob(registry: Registry, endpoint: UploadBlob, request: Request) -> Response:
    """end-4b: the whole blob in one POST. If one R2 put cannot take it, it is uploaded like a session of one chunk."""
    await registry.before_first_write()
    if _fits_one_put(request.body.size):
        await _put_whole(registry, endpoint, request)
    else:
        async with Upload(registry.platform, endpoint.name, new_uuid(registry.platform)) as upload:
            await _append_and_close(upload, State(), endpoint, request)
    return _created(endpoint.name, endpoint.digest)


async def append_chunk(registry: Registry, endpoint: AppendChunk, request: Request) -> Response:
    """end-5: 202 with the session's offset after the chunk, or 416 when the chunk does not begin at its offset."""
    async with await _upload(registry, endpoint) as upload:
        try:
            state = await _append(upload, await _resume(upload, endpoint, request), request)
        except OutOfDate:
            raise await _out_of_order(upload, endpoint) from None
    return _progress(202, endpoint, state)


async def close_upload(registry: Registry, endpoint: CloseUpload, request: Request) -> Response:
    """end-6: 201 when the bytes match the digest. The body may have all bytes, the last chunk, or none."""
    is_whole = endpoint.entry is None and request.header("content-range") is None
    async with await _upload(registry, endpoint) as upload:
        try:
            if request.body.size == 0:
                await _close(upload, endpoint.entry, endpoint)
            elif is_whole and _fits_one_put(request.body.size):
                await _put_last_or_whole(registry, upload, endpoint, request)
            else:
                await _append_and_close(upload, await _resume(upload, endpoint, request), endpoint, request)
        except OutOfDate:
            raise await _out_of_order(upload, endpoint) from None
    return _created(endpoint.name, endpoint.digest)


async def get_upload(registry: Registry, endpoint: GetUpload, request: Request) -> Response:
    """end-13: 204 with the session's offset."""
    async with await _upload(registry, endpoint) as upload:
        return _progress(204, endpoint, await upload.resume_latest())


async def cancel_upload(registry: Registry, endpoint: CancelUpload, request: Request) -> Response:
    """end-14: 204 when the session and its bytes were deleted."""
    async with await _upload(registry, endpoint) as upload:
        await upload.cancel(await upload.resume_latest())
    return Response(204)


# ---------------------------------------------------------------------- shared by the handlers
async def _upload(registry: Registry, endpoint: InSession) -> Upload:
    session = await registry.sessions.verify(endpoint.name, endpoint.session)
    return Upload(registry.platform, endpoint.name, session)


def _fits_one_put(size: int | None) -> bool:
    return size is not None and size <= MAX_PUT_SIZE


async def _put_whole(registry: Registry, endpoint: CloseUpload | UploadBlob, request: Request) -> None:
    try:
        await blobs.put_whole(registry.platform, endpoint.name, endpoint.digest, request.body)
    except ChecksumMismatch:
        raise mismatch(endpoint.digest) from None


async def _put_last_or_whole(registry: Registry, upload: Upload, endpoint: CloseUpload, request: Request) -> None:
    """Store the body as the whole blob. A client that kept the session's first location may send only the last bytes.

    Raises OutOfDate in that case.
    """
    try:
        await _put_whole(registry, endpoint, request)
    except RegistryError:
        if (await upload.resume_latest()).entry is not None:
            raise OutOfDate from None
        raise


async def _resume(upload: Upload, endpoint: InSession, request: Request) -> State:
    """Return the state after which the body continues. Raises OutOfDate when Content-Range has another offset."""
    chunk_range = parse_chunk_range(request.header("content-range"))
    if endpoint.entry is None and chunk_range is not None and chunk_range.start > 0:
        state: State | None = await upload.resume_latest()  # the location names no log entry: list the log
    else:
        state = await upload.resume(endpoint.entry)
    if state is None:
        raise gone()
    if chunk_range is not None and chunk_range.start != state.offset:
        raise OutOfDate
    return state


async def _append(upload: Upload, state: State, request: Request) -> State:
    chunk_range = parse_chunk_range(request.header("content-range"))
    return await upload.append(state, request.body, chunk_range.size if chunk_range else None)


async def _append_and_close(upload: Upload, state: State, endpoint: CloseUpload | UploadBlob, request: Request) -> None:
    appended = await _append(upload, state, request)
    await _close(upload, appended.entry, endpoint)


async def _close(upload: Upload, entry: int | None, endpoint: CloseUpload | UploadBlob) -> None:
    """Close a session with its stored bytes. Without `entry`, the log is listed for its newest entry."""
    state = await (upload.resume_latest() if entry is None else upload.resume(entry))
    if state is None:
        if not await upload.is_done(endpoint.digest):
            raise gone()
    elif state.entry is None:
        await upload.close_without_chunks(endpoint.digest)
    else:
        await upload.close(endpoint.digest)


async def _out_of_order(upload: Upload, endpoint: InSession) -> RegistryError:
    """Return the 416 error with the session's current offset, from which the client can continue."""
    state = await upload.resume_latest()
    headers = _progress(416, endpoint, state).headers
    return RegistryError(
        Problem.UPLOAD_OUT_OF_ORDER, f"the next chunk must begin at offset {state.offset}", headers=headers
    )


def _progress(status: int, endpoint: InSession, state: State) -> Response:
    session = endpoint.session
    location = build(GetUpload(endpoint.name, session, state.entry))
    return Response(
        status,
        {
            "Location": location,
            "Range": upload_range(state.offset),
            "Docker-Upload-UUID": session.partition(".")[0],
        },
    )


def _created(name: RepositoryName, digest: Digest) -> Response:
    return Response(201, {"Location": build(GetBlob(name, digest)), "Docker-Content-Digest": str(digest)})
