"""Answers to end-4, 5, 6, 11, 13 and 14: pushing blobs."""

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
    """end-4a: 202 with a session to upload to."""
    session = await registry.sessions.issue(endpoint.name)
    answer = _progress(202, GetUpload(endpoint.name, session, None), State())
    lengths = {
        "OCI-Chunk-Min-Length": str(SMALL_PART),
        "OCI-Chunk-Max-Length": str(registry.settings.chunk_max_length),
    }
    return Response(answer.status, {**answer.headers, **lengths})


async def mount_blob(registry: Registry, endpoint: MountBlob, request: Request) -> Response:
    """end-11: 201 when the blob is now here, else 202 as end-4a: the client uploads it."""
    source = endpoint.source
    if source is None or not await blobs.mount(registry.platform, endpoint.name, endpoint.digest, source):
        return await start_upload(registry, StartUpload(endpoint.name), request)
    return _created(endpoint.name, endpoint.digest)


async def start_upload_for(registry: Registry, endpoint: StartUploadFor, request: Request) -> Response:
    """end-4c: as end-4a. The algorithm only matters when the session is closed."""
    if endpoint.algorithm not in ALGORITHMS:
        known = " and ".join(ALGORITHMS)
        raise RegistryError(Problem.DIGEST_INVALID, f"digest algorithm not supported: this registry takes {known}")
    return await start_upload(registry, StartUpload(endpoint.name), request)


async def upload_blob(registry: Registry, endpoint: UploadBlob, request: Request) -> Response:
    """end-4b: the whole blob in one POST; through parts, as in a session of its own, when R2 cannot take it at once."""
    await registry.before_first_write()
    if _fits_one_put(request.body.size):
        await _put_whole(registry, endpoint, request)
    else:
        async with Upload(registry.platform, endpoint.name, new_uuid(registry.platform)) as upload:
            await _append_and_close(upload, State(), endpoint, request)
    return _created(endpoint.name, endpoint.digest)


async def append_chunk(registry: Registry, endpoint: AppendChunk, request: Request) -> Response:
    """end-5: 202 with how far the session is, or 416 when the chunk is not the next one."""
    async with await _upload(registry, endpoint) as upload:
        try:
            state = await _append(upload, await _resume(upload, endpoint, request), request)
        except OutOfDate:
            raise await _out_of_order(upload, endpoint) from None
    return _progress(202, endpoint, state)


async def close_upload(registry: Registry, endpoint: CloseUpload, request: Request) -> Response:
    """end-6: 201 when the bytes are those of the digest. The request may carry all of them, the last ones, or none."""
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
    """end-13: 204 with how far the session is."""
    async with await _upload(registry, endpoint) as upload:
        return _progress(204, endpoint, await upload.resume_latest())


async def cancel_upload(registry: Registry, endpoint: CancelUpload, request: Request) -> Response:
    """end-14: 204, and what was uploaded is gone."""
    async with await _upload(registry, endpoint) as upload:
        await upload.cancel(await upload.resume_latest())
    return Response(204)


# ---------------------------------------------------------------------- pieces of the above
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
    """A body that is the whole blob, unless the client kept the first location: then it may be the last bytes only."""
    try:
        await _put_whole(registry, endpoint, request)
    except RegistryError:
        if (await upload.resume_latest()).entry is not None:
            raise OutOfDate from None
        raise


async def _resume(upload: Upload, endpoint: InSession, request: Request) -> State:
    """The state that the request's bytes follow; OutOfDate when Content-Range says that they do not."""
    chunk_range = parse_chunk_range(request.header("content-range"))
    if endpoint.entry is None and chunk_range is not None and chunk_range.start > 0:
        state: State | None = await upload.resume_latest()  # a location without our parameter: only the log knows
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
    """Close a session with what its chunks brought; without `entry` only the log knows whether there were any."""
    state = await (upload.resume_latest() if entry is None else upload.resume(entry))
    if state is None:
        if not await upload.is_done(endpoint.digest):
            raise gone()
    elif state.entry is None:
        await upload.close_without_chunks(endpoint.digest)
    else:
        await upload.close(endpoint.digest)


async def _out_of_order(upload: Upload, endpoint: InSession) -> RegistryError:
    """416 with where the session really is, so that the client can go on from there."""
    state = await upload.resume_latest()
    headers = _progress(416, endpoint, state).headers
    return RegistryError(
        Problem.UPLOAD_OUT_OF_ORDER, f"the next chunk begins at offset {state.offset}", headers=headers
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
