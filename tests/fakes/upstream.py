"""A fake upstream registry and token server for `FakeWeb`, which can require credentials and misbehave."""

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from tests.fakes.client import FakeRegistry, digest_of
from tests.fakes.machine import Reply, WebRequest
from tests.fakes.streams import Chunk
from tests.images import INDEX, MANIFEST, descriptor, image

UPSTREAM = "https://up.example"
TOKEN_SERVER = "https://auth.example"
PIECE = 100_000  # bytes of a body that arrive at once


def pieces(data: bytes) -> list[Chunk]:
    """A body in the pieces in which it arrives."""
    return [data[at : at + PIECE] for at in range(0, len(data), PIECE)]


@dataclass(slots=True)
class FakeUpstream:
    """The repositories of one registry. `quirk` gets every response and may change it."""

    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[bytes, str]] = field(default_factory=dict)
    referrers_page: int = 0  # descriptors of one answer of its referrers API; 0: it has none
    challenge: str | None = None  # the WWW-Authenticate header, if it requires credentials
    accepted: set[str] = field(default_factory=set)  # values of Authorization
    quirk: Callable[[WebRequest, Reply], Reply] = lambda _, reply: reply
    requests: list[WebRequest] = field(default_factory=list)

    def push(self, name: str, tag: str, layers: Iterable[bytes]) -> bytes:
        """Add an image with its blobs; returns the manifest's bytes."""
        layers = list(layers)
        config = json.dumps({"layers": len(layers)}).encode()
        for data in (config, *layers):
            self.blobs[name, digest_of(data)] = data
        data = json.dumps(image(config, layers)).encode()
        self.put(name, tag, data, MANIFEST)
        return data

    def push_index(self, name: str, tag: str, children: Iterable[bytes]) -> bytes:
        """Add an index of existing manifests; returns its bytes."""
        entries = [{"mediaType": MANIFEST, "digest": digest_of(one), "size": len(one)} for one in children]
        data = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
        self.put(name, tag, data, INDEX)
        return data

    def put(self, name: str, tag: str, data: bytes, media_type: str) -> None:
        """Add a manifest under its digest and a tag."""
        for reference in (tag, digest_of(data)):
            self.manifests[name, reference] = data, media_type

    def attach(self, name: str, subject: bytes, kind: str, **annotations: str) -> bytes:
        """A manifest that names the subject, as a client of this registry pushes it; its bytes."""
        self.blobs[name, digest_of(b"{}")] = b"{}"
        document = image(b"{}", [], subject=descriptor(subject, MANIFEST), artifactType=kind, annotations=annotations)
        data = json.dumps(document).encode()
        self.manifests[name, digest_of(data)] = data, MANIFEST
        if not self.referrers_page:
            tag = digest_of(subject).replace(":", "-")
            index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": self._referrers(name, subject)})
            self.manifests[name, tag] = index.encode(), INDEX
        return data

    def _referrers(self, name: str, subject: bytes | str) -> list[dict[str, object]]:
        """The descriptors of what names the subject, which is bytes or a digest."""
        digest = subject if isinstance(subject, str) else digest_of(subject)
        found = []
        for (repository, reference), (data, media_type) in self.manifests.items():
            document = json.loads(data) if ":" in reference and repository == name else {}
            if (document.get("subject") or {}).get("digest") == digest:
                more = {member: document[member] for member in ("artifactType", "annotations")}
                found.append(descriptor(data, media_type) | more)
        return found

    def _list_referrers(self, name: str, digest: str, query: str) -> Reply:
        begin = int(parse_qs(query).get("from", ["0"])[0])
        found = self._referrers(name, digest)
        end = begin + self.referrers_page
        headers = {"content-type": INDEX}
        if end < len(found):
            headers["link"] = f'</v2/{name}/referrers/{digest}?from={end}>; rel="next"'
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": found[begin:end]}
        return Reply(200, headers, pieces(json.dumps(index).encode()))

    def asked(self, method: str, part: str) -> list[str]:
        """The requested paths with `part` in them."""
        return [one.path for one in self.requests if one.method == method and part in one.path]

    async def __call__(self, request: WebRequest) -> Reply:
        """Answer a request."""
        self.requests.append(request)
        return self.quirk(request, self._answer(request))

    def _answer(self, request: WebRequest) -> Reply:
        if self.challenge is not None and request.headers.get("authorization") not in self.accepted:
            return Reply(401, {"www-authenticate": self.challenge}, [b"{}"])
        url = urlsplit(request.path)
        path, _, reference = url.path.removeprefix("/v2/").rpartition("/")
        name, _, kind = path.rpartition("/")
        if kind == "blobs" and (name, reference) in self.blobs:
            return _blob(self.blobs[name, reference], request.headers.get("range"))
        if kind == "manifests" and (name, reference) in self.manifests:
            data, media_type = self.manifests[name, reference]
            assert media_type in request.headers["accept"]
            headers = {
                "content-type": media_type,
                "content-length": str(len(data)),
                "docker-content-digest": digest_of(data),
            }
            return Reply(200, headers, [data])
        if kind == "referrers" and self.referrers_page:
            return self._list_referrers(name, reference, url.query)
        return Reply(404, {}, [b'{"errors": []}'])


def _blob(data: bytes, byte_range: str | None) -> Reply:
    if byte_range is None:
        return Reply(200, {"content-length": str(len(data))}, pieces(data))
    first, last = (int(end) for end in byte_range.removeprefix("bytes=").split("-"))
    part = data[first : last + 1]
    headers = {"content-length": str(len(part)), "content-range": f"bytes {first}-{last}/{len(data)}"}
    return Reply(206, headers, pieces(part))


@dataclass(slots=True)
class FakeTokenServer:
    """Issues tokens for `upstream`: by GET with Basic or no credentials, or only by POST without `takes_get`."""

    upstream: FakeUpstream
    users: Mapping[str, str] = field(default_factory=dict)  # empty: anonymous access
    expires_in: int | None = 300
    takes_get: bool = True
    asked: list[Mapping[str, list[str]]] = field(default_factory=list)

    async def __call__(self, request: WebRequest) -> Reply:
        """Answer a request."""
        is_get = request.method == "GET"
        asked = parse_qs(urlsplit(request.url).query if is_get else request.body)
        if is_get and not self.takes_get:
            return Reply(405)
        if self.users and not self._knows(request, asked):
            return Reply(401, {}, [b"who are you?"])
        self.asked.append(asked)
        token = f"token-{len(self.asked)}"
        self.upstream.accepted = {f"Bearer {token}"}
        answer: dict[str, object] = {"access_token" if not is_get else "token": token}
        if self.expires_in is not None:
            answer["expires_in"] = self.expires_in
        return Reply(200, {}, [json.dumps(answer).encode()])

    def _knows(self, request: WebRequest, asked: Mapping[str, list[str]]) -> bool:
        if request.method == "POST":
            return self.users.get(asked["username"][0]) == asked["password"][0]
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        name, _, password = base64.b64decode(credentials).decode().partition(":")
        return scheme == "Basic" and self.users.get(name) == password


async def ask_registry(registry: FakeRegistry, request: WebRequest) -> Reply:
    """Answer a request by a FakeRegistry, which acts as the upstream registry."""
    answer = await registry.call(request.method, request.path, headers=request.headers, user=None)
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Reply(answer.status, headers, pieces(answer.body))
