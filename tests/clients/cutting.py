"""A proxy before the registry that cuts a download in the middle, once for each blob."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

from .loopback import QuietHandler, serving

LARGE = 1_000_000  # bytes: what is smaller passes whole


class Cuts:
    """What was seen: the blobs that were cut, and the ranges that were asked for afterwards, with their statuses."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.cut: set[str] = set()
        self.resumed: list[tuple[str, int]] = []
        self._lock = threading.Lock()

    def is_first(self, path: str) -> bool:
        """Whether this blob was not cut yet; it is from now on."""
        with self._lock:
            first = path not in self.cut
            self.cut.add(path)
            return first


@contextmanager
def cutting_proxy(host: str) -> Iterator[tuple[str, Cuts]]:
    """Run the proxy before `host`; its own host and port, and what it saw."""
    cuts = Cuts()

    class Handler(QuietHandler):
        def _pass_on(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            with closing(http.client.HTTPConnection(host, timeout=30)) as upstream:
                upstream.request(self.command, self.path, self.rfile.read(size) if size else None, dict(self.headers))
                answer = upstream.getresponse()
                content = answer.read()
            if "Range" in self.headers and "/blobs/" in self.path:
                cuts.resumed.append((self.headers["Range"], answer.status))
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {"transfer-encoding", "date", "server", "connection"}:
                    self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if answer.status == 200 and len(content) > LARGE and "/blobs/" in self.path and cuts.is_first(self.path):
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                self.close_connection = True
                return
            self.wfile.write(content)

        do_GET = do_HEAD = _pass_on  # noqa: N815 - http.server's names

    with serving(Handler) as port:
        yield f"localhost:{port}", cuts
