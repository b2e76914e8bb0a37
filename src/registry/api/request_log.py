"""Writes one log line for each request, and counts the request in the metrics."""

from http import HTTPStatus
from urllib.parse import unquote

from registry.api.http import Request, Response
from registry.telemetry.log import log
from registry.telemetry.metrics import Metrics
from registry.telemetry.request_record import RequestRecord

_MAX_PATH = 300  # characters
_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)  # whose log line has the client's address


def report(request: Request, response: Response, record: RequestRecord, metrics: Metrics, seconds: float) -> None:
    """Log a request when its answer begins. `sent` is the Content-Length, since a blob's bytes are still to be sent.

    `seconds` is the time since the request arrived. The log line has no query, no upload session id (which is as good
    as a secret), and no header values except Cloudflare's request id and, for refused requests, the client's address.
    """
    endpoint, sent = record.endpoint, _size(response)
    fields: dict[str, object] = {
        "method": request.method,
        "endpoint": record.kind,
        "repository": record.repository,
        "reference": getattr(endpoint, "reference", None) or getattr(endpoint, "digest", None),
        "status": response.status,
        "received": request.body.taken,
        "sent": sent,
        "milliseconds": round(seconds * 1000, 1),
        "class_a": record.class_a,
        "class_b": record.class_b,
        "account": record.account,
    }
    if endpoint is None:
        fields["path"] = _without_session(request.path)[:_MAX_PATH]
    if record.reason is not None:
        fields["reason"] = record.reason
    if response.status in _REFUSED:
        fields["address"] = request.header("cf-connecting-ip")
    log("request", **fields)
    metrics.note(record, response.status, seconds, request.body.taken, sent)


def _without_session(path: str) -> str:
    """Return an unknown path without the segments in which an upload session id may be."""
    segments = path.split("/")
    for at, segment in enumerate(segments):
        if unquote(segment).lower() == "uploads":
            return "/".join([*segments[: at + 1], *("…" for _ in segments[at + 1 :])])
    return path


def _size(response: Response) -> int:
    length = response.headers.get("Content-Length")
    if length is not None:
        return int(length)
    return len(response.body) if isinstance(response.body, str | bytes) else 0
