"""`make smoke URL=https://…`: push, pull and delete at a registry that runs; look at what the network does to it.

URL, USERNAME, PASSWORD and REPOSITORY (smoke/test) come from the environment. LARGE=1 also sends a chunk as large as
the registry says it takes, and one above 100 MB. A line for every check; exit code 1 when one failed, 2 when there is
no registry.
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
ABOVE_LIMIT = 101_000_000  # bytes: Cloudflare takes 100 MB on Free and Pro
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


class Failure(Exception):
    """A check did not see what it should."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def must(self, status: int, what: str) -> "Answer":
        """Raise Failure unless it has this status."""
        if self.status != status:
            request = self.headers.get("X-Request-Id", "unknown")
            raise Failure(f"{what}: {self.status} in place of {status}, request {request}: {self.body[:300]!r}")
        return self


def digest_of(data: bytes) -> str:
    """Its sha256."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(slots=True)
class Registry:
    """The registry, its user, and what is to be deleted at the end."""

    url: str
    user: str
    password: str
    name: str
    pushed: list[str] = field(default_factory=list)
    _bearer: str | None = None

    def ask(
        self, method: str, path: str, body: bytes | Iterator[bytes] | None = None, *, login: bool = True, **headers: str
    ) -> Answer:
        """One request on a connection of its own; `path` may be a whole URL. Underscores in headers are hyphens."""
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
        """User name and password as a header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    def log_in(self, challenge: str) -> None:
        """Get a token where the registry asks for one."""
        parameters = dict(_PARAMETER.findall(challenge))
        query = f"?service={parameters.get('service', '')}&scope=repository:{self.name}:pull,push,delete"
        answer = self.ask("GET", parameters["realm"] + query, Authorization=self.basic()).must(200, "token")
        self._bearer = "Bearer " + json.loads(answer.body)["token"]

    def path(self, rest: str) -> str:
        """A path of the repository."""
        return f"/v2/{self.name}/{rest}"

    def start(self) -> Answer:
        """A session."""
        return self.ask("POST", self.path("blobs/uploads/"), b"").must(202, "start of an upload")

    def close(self, location: str, digest: str, body: bytes = b"") -> Answer:
        """End a session."""
        self.pushed.append(f"blobs/{digest}")
        return self.ask("PUT", f"{location}{'&' if '?' in location else '?'}digest={digest}", body)

    def push(self, data: bytes) -> str:
        """A blob in one request; its digest."""
        digest = digest_of(data)
        self.close(self.start().headers["Location"], digest, data).must(201, "monolithic push")
        return digest

    def put_manifest(self, data: bytes, reference: str) -> Answer:
        """A manifest."""
        self.pushed.append(f"manifests/{digest_of(data)}")
        return self.ask("PUT", self.path(f"manifests/{reference}"), data, Content_Type=MANIFEST)


def noise(size: int) -> bytes:
    """Bytes that no registry has seen."""
    return random.randbytes(size)


def logins(registry: Registry) -> str:
    """Who gets in."""
    anonymous = registry.ask("GET", "/v2/", login=False).must(401, "without credentials")
    registry.ask("GET", "/healthz", login=False).must(200, "/healthz")
    wrong = "Basic " + base64.b64encode(b"nobody:wrong").decode()
    registry.ask("GET", "/v2/", login=False, Authorization=wrong).must(401, "with a wrong password")
    challenge = anonymous.headers.get("WWW-Authenticate", "")
    if challenge.startswith("Bearer"):
        registry.log_in(challenge)
    registry.ask("GET", "/v2/").must(200, "with USERNAME and PASSWORD")
    if "X-Request-Id" not in anonymous.headers:
        raise Failure("no X-Request-Id")
    return f"401, 401, 200; {challenge.partition(' ')[0]}"


def chunks(registry: Registry) -> str:
    """Three chunks with a range, and one of unknown length."""
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
    """Bytes come back whole, whatever the network would like to compress."""
    text = b"the same line again and again\n" * (8 * MIB // 30)
    path = registry.path(f"blobs/{registry.push(text)}")
    for accepted in ("identity", "gzip, br"):
        got = registry.ask("GET", path, Accept_Encoding=accepted).must(200, "pull")
        if got.body != text or got.headers.get("Content-Encoding") or got.headers["Content-Length"] != str(len(text)):
            raise Failure(f"with Accept-Encoding {accepted} came {len(got.body)} bytes with {dict(got.headers)}")
    for asked, expected in (("bytes=100-199", text[100:200]), ("bytes=-7", text[-7:]), (f"bytes={MIB}-", text[MIB:])):
        if registry.ask("GET", path, Range=asked).must(206, asked).body != expected:
            raise Failure(f"{asked} gave other bytes")
    registry.ask("GET", path, If_None_Match=got.headers["ETag"]).must(304, "If-None-Match")
    return "whole, with its length, not encoded; ranges; 304"


def manifests(registry: Registry) -> str:
    """By tag and digest, byte for byte."""
    data = image(registry, registry.push(noise(MIB)), MIB)
    registry.put_manifest(data, "smoke").must(201, "manifest")
    for reference in ("smoke", digest_of(data)):
        got = registry.ask("GET", registry.path(f"manifests/{reference}"), Accept=MANIFEST, Accept_Encoding="gzip, br")
        same = got.must(200, "manifest").body == data and got.headers["Docker-Content-Digest"] == digest_of(data)
        if not same or got.headers.get("Content-Encoding"):
            raise Failure(f"the manifest {reference} came with {dict(got.headers)}")
    tags = json.loads(registry.ask("GET", registry.path("tags/list")).must(200, "tags").body)["tags"]
    return f"tags {tags}"


def image(registry: Registry, layer: str, size: int) -> bytes:
    """An image manifest."""
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
    """R2 takes a write a second for a key: two pushes of a tag at the same moment."""
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
        raise Failure(f"the pushes were answered {statuses}")
    served = registry.ask("GET", registry.path("manifests/busy"), Accept=MANIFEST).must(200, "the tag").body
    if served not in both:
        raise Failure("the tag serves neither")
    return f"answered {statuses}"


def large_chunks(registry: Registry) -> str:
    """The largest chunk that the registry asks for goes through; what the limit answers."""
    if os.environ.get("LARGE") != "1":
        return "not tried: LARGE=1 sends 190 MB"
    started = registry.start()
    size = int(started.headers["OCI-Chunk-Max-Length"])
    data = noise(size)
    sent = registry.ask("PATCH", started.headers["Location"], data).must(202, f"chunk of {size} bytes")
    registry.close(sent.headers["Location"], digest_of(data)).must(201, "its end")
    try:
        above = str(registry.ask("PATCH", registry.start().headers["Location"], bytes(ABOVE_LIMIT)).status)
    except OSError as error:
        above = repr(error)
    return f"{size} bytes go through; {ABOVE_LIMIT} were answered {above}"


def clean_up(registry: Registry) -> str:
    """Delete what was pushed; then it is gone."""
    paths = sorted(set(registry.pushed), reverse=True)  # manifests before their blobs
    for path in paths:
        answer = registry.ask("DELETE", registry.path(path))
        if answer.status not in (202, 404):
            answer.must(202, f"DELETE {path}; delete it by hand")
        registry.ask("GET", registry.path(path), Accept=MANIFEST).must(404, "what was deleted")
    return f"{len(paths)} deleted"


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
    """Run all checks; what was pushed is deleted in any case."""
    variable = os.environ.get
    url = variable("URL", "")
    if not url.startswith(("http://", "https://")):
        print("URL= is the registry's: make smoke URL=https://registry.example.com USERNAME=… PASSWORD=…")
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
            print(f"FAILED  {check.__name__.replace('_', ' ')}: {url} does not answer as a server should: {error!r}")
            return 2
        if failed and check is logins:
            break
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
