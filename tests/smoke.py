"""`make smoke URL=https://…`: pushes, pulls and deletes at a running registry, and checks the network in front of it.

URL, USERNAME, PASSWORD and REPOSITORY (smoke/test) come from the environment. LARGE=0 leaves out the check of the body
limit, which sends 190 MB: a chunk of the maximal size that the registry states, and one above 100 MB. At the end
everything that was pushed is deleted, also after a failure. Every check prints a line. The exit code is 1 when a check
failed, and 2 when no registry answers.
"""

import base64
import hashlib
import http.client
import json
import os
import random
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

MIB = 1024 * 1024
ABOVE_LIMIT = 101_000_000  # bytes: Cloudflare's limit on Free and Pro is 100 MB
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


class Failure(Exception):
    """A check failed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, with its whole body."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def must(self, status: int, what: str) -> "Answer":
        """Return the response; raises Failure unless it has this status. `what` names the request."""
        if self.status != status:
            request = self.headers.get("X-Request-Id", "unknown")
            raise Failure(f"{what}: got {self.status}, expected {status}; request {request}: {self.body[:300]!r}")
        return self


def digest_of(data: bytes) -> str:
    """The sha256 digest of bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(slots=True)
class Registry:
    """A client of the registry that records the pushed objects, to delete them at the end."""

    url: str
    user: str
    password: str
    name: str
    pushed: list[str] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    _bearer: str | None = None

    def ask(
        self, method: str, path: str, body: bytes | Iterator[bytes] | None = None, *, login: bool = True, **headers: str
    ) -> Answer:
        """Send one request on a new connection. `path` may be a URL. Underscores in header names mean hyphens."""
        url = urlsplit(urljoin(self.url, path))
        secure = url.scheme == "https"
        connection = (http.client.HTTPSConnection if secure else http.client.HTTPConnection)(url.netloc, timeout=120)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if login:
            sent["Authorization"] = self._bearer or self.basic()
        try:
            connection.request(method, f"{url.path}?{url.query}" if url.query else url.path, body, sent)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def basic(self) -> str:
        """The Authorization header for user name and password."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    def log_in(self, challenge: str) -> None:
        """Get a token from the token endpoint that a Bearer challenge names."""
        parameters = dict(_PARAMETER.findall(challenge))
        query = f"?service={parameters.get('service', '')}&scope=repository:{self.name}:pull,push,delete"
        answer = self.ask("GET", parameters["realm"] + query, Authorization=self.basic()).must(200, "token")
        self._bearer = "Bearer " + json.loads(answer.body)["token"]

    def path(self, rest: str) -> str:
        """A path of the repository."""
        return f"/v2/{self.name}/{rest}"

    def start(self) -> Answer:
        """Start an upload session."""
        answer = self.ask("POST", self.path("blobs/uploads/"), b"").must(202, "start of an upload")
        self.sessions.append(answer.headers["Location"])
        return answer

    def close(self, location: str, digest: str, body: bytes = b"") -> Answer:
        """Close an upload session; `body` holds the last bytes."""
        self.pushed.append(f"blobs/{digest}")
        return self.ask("PUT", f"{location}{'&' if '?' in location else '?'}digest={digest}", body)

    def push(self, data: bytes) -> str:
        """Push a blob in one request; returns its digest."""
        digest = digest_of(data)
        self.close(self.start().headers["Location"], digest, data).must(201, "monolithic push")
        return digest

    def put_manifest(self, data: bytes, reference: str) -> Answer:
        """PUT a manifest."""
        self.pushed.append(f"manifests/{digest_of(data)}")
        return self.ask("PUT", self.path(f"manifests/{reference}"), data, Content_Type=MANIFEST)


def noise(size: int) -> bytes:
    """Random bytes, so that no registry has the blob already."""
    return random.randbytes(size)


def logins(registry: Registry) -> str:
    """Requests without credentials and with a wrong password get 401; USERNAME and PASSWORD are accepted."""
    anonymous = registry.ask("GET", "/v2/", login=False).must(401, "without credentials")
    registry.ask("GET", "/healthz", login=False).must(200, "/healthz")
    wrong = "Basic " + base64.b64encode(b"nobody:wrong").decode()
    registry.ask("GET", "/v2/", login=False, Authorization=wrong).must(401, "with a wrong password")
    challenge = anonymous.headers.get("WWW-Authenticate", "")
    if challenge.startswith("Bearer"):
        registry.log_in(challenge)
    registry.ask("GET", "/v2/").must(200, "with USERNAME and PASSWORD")
    if "X-Request-Id" not in anonymous.headers:
        raise Failure("the response to GET /v2/ has no X-Request-Id")
    return f"401, 401, 200; {challenge.partition(' ')[0]}"


def chunks(registry: Registry) -> str:
    """Three chunks with a Content-Range, and one of unknown length; a wrong digest is refused."""
    data = noise(24 * MIB)
    started = registry.start()
    location = started.headers["Location"]
    for at in range(0, len(data), 8 * MIB):
        sent = registry.ask("PATCH", location, data[at : at + 8 * MIB], Content_Range=f"{at}-{at + 8 * MIB - 1}")
        location = sent.must(202, "chunk").headers["Location"]
    registry.close(location, digest_of(data)).must(201, "end of chunks")
    streamed = noise(9 * MIB)
    pieces = (streamed[at : at + MIB] for at in range(0, len(streamed), MIB))
    sent = registry.ask("PATCH", registry.start().headers["Location"], pieces).must(202, "stream")
    registry.close(sent.headers["Location"], digest_of(streamed)).must(201, "end of a stream")
    refused = registry.close(registry.start().headers["Location"], digest_of(b"other"), b"data").must(
        400, "wrong digest"
    )
    if json.loads(refused.body)["errors"][0]["code"] != "DIGEST_INVALID":
        raise Failure(f"a wrong digest gave {refused.body!r}")
    return f"OCI-Chunk-Max-Length {started.headers.get('OCI-Chunk-Max-Length')}"


def pulls(registry: Registry) -> str:
    """Blobs come back unchanged and uncompressed, although the network might compress them."""
    text = b"the same line again and again\n" * (8 * MIB // 30)
    path = registry.path(f"blobs/{registry.push(text)}")
    for accepted in ("identity", "gzip, br"):
        got = registry.ask("GET", path, Accept_Encoding=accepted).must(200, "pull")
        if got.body != text or got.headers.get("Content-Encoding") or got.headers["Content-Length"] != str(len(text)):
            raise Failure(
                f"Accept-Encoding {accepted} gave {len(got.body)} of {len(text)} bytes, with {dict(got.headers)}"
            )
    for asked, expected in (("bytes=100-199", text[100:200]), ("bytes=-7", text[-7:]), (f"bytes={MIB}-", text[MIB:])):
        if registry.ask("GET", path, Range=asked).must(206, asked).body != expected:
            raise Failure(f"the range {asked} gave wrong bytes")
    registry.ask("GET", path, If_None_Match=got.headers["ETag"]).must(304, "If-None-Match")
    return "whole, with its length, not encoded; ranges; 304"


def manifests(registry: Registry) -> str:
    """Manifests come back byte for byte, by tag and by digest."""
    data = image(registry, registry.push(noise(MIB)), MIB)
    registry.put_manifest(data, "smoke").must(201, "manifest")
    for reference in ("smoke", digest_of(data)):
        got = registry.ask("GET", registry.path(f"manifests/{reference}"), Accept=MANIFEST, Accept_Encoding="gzip, br")
        same = got.must(200, "manifest").body == data and got.headers["Docker-Content-Digest"] == digest_of(data)
        if not same or got.headers.get("Content-Encoding"):
            raise Failure(f"the manifest {reference} came back changed or encoded, with {dict(got.headers)}")
    tags = json.loads(registry.ask("GET", registry.path("tags/list")).must(200, "tags").body)["tags"]
    return f"tags {tags}"


def image(registry: Registry, layer: str, size: int) -> bytes:
    """An image manifest with a config that it pushes and one layer."""
    config = registry.push(b"{}")
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": size}],
        }
    ).encode()


def two_at_once(registry: Registry) -> str:
    """Two concurrent pushes of one tag: R2 takes one write per second to a key."""
    both = [image(registry, registry.push(noise(size)), size) for size in (1000, 2000)]
    answers: list[Answer] = []
    threads = [
        threading.Thread(target=lambda data=data: answers.append(registry.put_manifest(data, "busy"))) for data in both
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = sorted(answer.status for answer in answers)
    if len(statuses) < len(both) or not set(statuses) <= {201, 429, 503} or 201 not in statuses:
        raise Failure(f"two concurrent pushes of a tag gave {statuses}, expected 201 and 201, 429 or 503")
    served = registry.ask("GET", registry.path("manifests/busy"), Accept=MANIFEST).must(200, "the tag").body
    if served not in both:
        raise Failure("the tag serves neither of the two pushed manifests")
    return f"answered {statuses}"


def large_chunks(registry: Registry) -> str:
    """A chunk of OCI-Chunk-Max-Length passes; the response to one above the limit is printed."""
    if os.environ.get("LARGE") == "0":
        return "not tried, because of LARGE=0"
    started = registry.start()
    size = int(started.headers["OCI-Chunk-Max-Length"])
    data = noise(size)
    sent = registry.ask("PATCH", started.headers["Location"], data).must(202, f"chunk of {size} bytes")
    registry.close(sent.headers["Location"], digest_of(data)).must(201, "its end")
    try:
        above = str(registry.ask("PATCH", registry.start().headers["Location"], bytes(ABOVE_LIMIT)).status)
    except OSError as error:
        above = repr(error)
    return f"{size} bytes pass; {ABOVE_LIMIT} bytes gave {above}"


def clean_up(registry: Registry) -> str:
    """Delete the pushed objects and the open upload sessions, and check that they are gone."""
    for location in registry.sessions:
        answer = registry.ask("DELETE", location)
        if answer.status not in (204, 404):
            answer.must(204, f"DELETE {urlsplit(location).path}")
    paths = sorted(set(registry.pushed), reverse=True)  # manifests before their blobs
    for path in paths:
        answer = registry.ask("DELETE", registry.path(path))
        if answer.status not in (202, 404):
            answer.must(202, f"DELETE {path}; delete it by hand")
        registry.ask("GET", registry.path(path), Accept=MANIFEST).must(404, "what was deleted")
    return f"{len(paths)} deleted; the scheduled cleanup removes {registry.name} from the catalogue"


CHECKS: tuple[Callable[[Registry], str], ...] = (
    logins,
    chunks,
    pulls,
    manifests,
    two_at_once,
    large_chunks,
    clean_up,
)


def main() -> int:
    """Run all checks; the last one deletes the pushed objects."""
    variable = os.environ.get
    url = variable("URL", "")
    if not url.startswith(("http://", "https://")):
        print("URL is missing: make smoke URL=https://registry.example.com USERNAME=… PASSWORD=…")
        return 2
    credentials = variable("USERNAME") or "hello", variable("PASSWORD") or "world"
    registry = Registry(url, *credentials, variable("REPOSITORY") or "smoke/test")
    failed = False
    for check in CHECKS:
        try:
            print(f"ok      {check.__name__.replace('_', ' ')}: {check(registry)}", flush=True)
        except Failure as failure:
            failed = True
            print(f"FAILED  {check.__name__.replace('_', ' ')}: {failure}", flush=True)
        except (OSError, http.client.HTTPException) as error:
            print(f"FAILED  {check.__name__.replace('_', ' ')}: no valid response from {url}: {error!r}")
            if check is logins or check is clean_up:
                return 2
            failed = True
        if failed and check is logins:
            break
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
