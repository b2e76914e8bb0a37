"""What stands between clients and the registry: Cloudflare's edge with its limit, and connections that break.

A body above the limit is answered with 413 and a page of HTML, and the connection is closed, whether the body is sent
with its length or in pieces.
"""

import http.client
import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from .loopback import QuietHandler, serving

_BLOCK = 64 * 1024  # bytes
_PAGE = b"<html><head><title>413 Request Entity Too Large</title></head></html>"
_KINDS = ("cut", "cut", "unheard", "busy", "broken")


class TooLarge(Exception):
    """The body is above the limit."""


class Cut(Exception):
    """The connection breaks now."""


@dataclass(slots=True)
class Edge:
    """The limit, what trouble is still to come, and what was seen. The trouble follows from a seed."""

    host: str
    limit: int  # bytes
    trouble: random.Random = field(default_factory=random.Random)
    troubles: int = 0
    refused: int = 0
    largest: int = 0  # bytes of a body that went through
    received: int = 0  # bytes of all bodies
    kinds: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next_kind(self) -> tuple[str, float] | None:
        """What goes wrong with the next request, and how far in it; None for one that goes well."""
        with self._lock:
            if self.troubles == 0 or self.trouble.random() < 0.4:
                return None
            self.troubles -= 1
            self.kinds.append(self.trouble.choice(_KINDS))
            return self.kinds[-1], self.trouble.random()

    def passed(self, size: int) -> None:
        """A body went through."""
        with self._lock:
            self.largest = max(self.largest, size)


class _Handler(QuietHandler):
    """A request that passes the self.edge."""

    edge: Edge

    def _handle(self) -> None:
        kind = self.edge.next_kind()
        try:
            if kind is not None and kind[0] in ("busy", "broken"):
                self.close_connection = True
                self._refuse(kind[0])
                return
            self._pass_on(kind)
        except TooLarge:
            self.edge.refused += 1
            self.close_connection = True
            self.answer(413, _PAGE, Content_Type="text/html", Connection="close")
        except Cut:
            self.close_connection = True
            # A reset, as when a machine on the way is gone.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _refuse(self, kind: str) -> None:
        if kind == "busy":
            self.answer(429, Retry_After="1", Connection="close")
        else:
            self.answer(503, b"<html>error 1102</html>", Content_Type="text/html", Connection="close")

    def _pass_on(self, kind: tuple[str, float] | None) -> None:
        length = self.headers["Content-Length"]
        if length is not None and int(length) > self.edge.limit:
            raise TooLarge
        chunked = self.headers["Transfer-Encoding"] == "chunked"
        stop = int(kind[1] * int(length or self.edge.limit)) if kind is not None and kind[0] == "cut" else None
        body = self._pieces(None if chunked else int(length or 0), stop)
        with closing(http.client.HTTPConnection(self.edge.host, timeout=60)) as upstream:
            has_body = chunked or length is not None
            upstream.request(
                self.command, self.path, body if has_body else None, dict(self.headers), encode_chunked=chunked
            )
            answer = upstream.getresponse()
            if kind is not None:  # a cut of a request without a body, or an answer that is lost
                raise Cut
            self._pass_back(answer)

    def _pieces(self, length: int | None, stop: int | None) -> Iterator[bytes]:
        size = 0
        for piece in self._plain(length) if length is not None else self._dechunked():
            size += len(piece)
            if size > self.edge.limit:
                raise TooLarge
            if stop is not None and size > stop:
                yield piece[: len(piece) - (size - stop)]
                raise Cut
            self.edge.received += len(piece)
            yield piece
        self.edge.passed(size)

    def _plain(self, left: int) -> Iterator[bytes]:
        while left:
            piece = self.rfile.read1(min(left, _BLOCK))
            if not piece:
                raise Cut
            left -= len(piece)
            yield piece

    def _dechunked(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _pass_back(self, answer: http.client.HTTPResponse) -> None:
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"transfer-encoding", "date", "server", "connection"}:
                self.send_header(name, value)
        if answer.length is None and self.command != "HEAD":
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        while self.command != "HEAD" and (piece := answer.read(_BLOCK)):
            self.wfile.write(piece)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815 - http.server's names


@contextmanager
def edge_before(host: str, limit: int, *, seed: int = 0, troubles: int = 0) -> Iterator[tuple[str, Edge]]:
    """Run the edge before the registry at `host`; its own host and port."""
    edge = Edge(host, limit, random.Random(seed), troubles)
    with serving(type("Handler", (_Handler,), {"edge": edge})) as port:
        yield f"localhost:{port}", edge
