"""Tests of pushes over bad connections: the registry gets the same bytes, and stored bytes are not sent again."""

import json
import random
from pathlib import Path

import httpx
import pytest

from registry_push.answers import shown
from registry_push.cache import Cache
from registry_push.credentials import Credentials
from registry_push.failures import Failure, Refused, Unreachable
from registry_push.images import Blob
from registry_push.retries import Retries
from registry_push.slices import whole
from tests.clients.images import KIB, MIB, OciLayout, layer, noise
from tests.fakes.client import FakeRegistry, digest_of
from tests.push.harness import FakeEdge, Interrupted, Run

SEEDS = 150


def layout(folder: Path, *layers: bytes) -> str:
    """An OCI layout with one image."""
    made = OciLayout(folder / "layout")
    made.tag("1", made.add_image(layers))
    return f"oci:{made.folder}"


async def check_pull(edge: FakeEdge, source: str) -> None:
    """Check that the registry has the image of the layout, byte for byte."""
    await edge.settle()
    folder = Path(source.partition(":")[2])
    edge.registry.side_by_side = False
    [entry] = json.loads((folder / "index.json").read_bytes())["manifests"]
    manifest = await edge.registry.call("GET", "/v2/team/app/manifests/1")
    assert digest_of(manifest.body) == entry["digest"]
    document = json.loads(manifest.body)
    for blob in [document["config"], *document["layers"]]:
        pulled = await edge.registry.call("GET", f"/v2/team/app/blobs/{blob['digest']}")
        assert pulled.status == 200
        assert digest_of(pulled.body) == blob["digest"]
    edge.registry.side_by_side = True


async def test_an_image(tmp_path: Path) -> None:
    """Blobs that fit one chunk go in one request; the second push uploads nothing."""
    edge = FakeEdge()
    source = layout(tmp_path, layer("a", 0), layer("b", KIB), layer("c", MIB))
    pusher = await Run(edge, tmp_path).push(source)
    assert (pusher.counts.pushed, pusher.counts.existing) == (4, 0)
    assert not [each for each in edge.seen if each.startswith("PATCH")]
    await check_pull(edge, source)
    edge.seen.clear()
    again = await Run(edge, tmp_path).push(source)
    assert (again.counts.pushed, again.counts.existing, again.counts.bytes_pushed) == (0, 4, 0)
    assert not [each for each in edge.seen if "uploads" in each]


async def test_an_empty_blob(tmp_path: Path) -> None:
    """A blob of 0 bytes is pushed."""
    edge = FakeEdge()
    source = layout(tmp_path, b"")
    await Run(edge, tmp_path).push(source)
    await check_pull(edge, source)


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_bad_connections(seed: int, tmp_path: Path) -> None:
    """The push survives cuts at any byte, lost responses, 429, 503, and interruptions with a new start."""
    randomness = random.Random(seed)
    edge = FakeEdge(FakeRegistry(seed=seed), trouble=randomness, troubles=25, interrupts=3)
    sizes = [0, 1, randomness.randrange(70 * KIB), randomness.randrange(70 * KIB)]
    source = layout(tmp_path, *(noise(f"{seed}-{size}", size) for size in sizes))
    chunk_size = randomness.choice([None, 700, 16 * KIB])
    while True:
        try:
            await Run(edge, tmp_path, chunk_size=chunk_size, retries=40).push(source)
        except Interrupted:
            continue
        break
    await check_pull(edge, source)


@pytest.mark.parametrize("resets", [False, True])
async def test_the_limit_is_found(resets: bool, tmp_path: Path) -> None:
    """The registry states 88 MiB, the edge takes 16 MB: chunks are halved until they pass."""
    edge = FakeEdge(limit=16_000_000, resets=resets)
    source = layout(tmp_path, layer("large", 70 * MIB))
    await Run(edge, tmp_path).push(source)
    await check_pull(edge, source)
    passed = [size for size in edge.bodies if size <= 16_000_000]
    assert sum(passed) < 71 * MIB, "bytes that had arrived were sent again"
    assert len([size for size in edge.bodies if size > 16_000_000]) <= 3


async def test_a_limit_that_is_known(tmp_path: Path) -> None:
    """With --chunk-size no chunk is refused."""
    edge = FakeEdge(limit=16_000_000)
    source = layout(tmp_path, layer("large", 20 * MIB))
    await Run(edge, tmp_path, chunk_size=16_000_000).push(source)
    await check_pull(edge, source)
    assert max(edge.bodies) <= 16_000_000


async def test_a_limit_below_everything(tmp_path: Path) -> None:
    """An edge that refuses even the smallest chunk gives an error that says so."""
    edge = FakeEdge(limit=1000)
    with pytest.raises(Failure, match="the smallest size, was refused as too large"):
        await Run(edge, tmp_path).push(layout(tmp_path, layer("a", 20 * MIB)))


async def test_resuming_sends_only_the_rest(tmp_path: Path) -> None:
    """After an interruption in the middle of a layer the next run resumes there."""
    edge = FakeEdge()
    content = noise("resume", 300 * KIB)
    source = layout(tmp_path, content)

    edge.script = lambda: "interrupted" if sum("PATCH" in each for each in edge.seen) == 3 else None
    with pytest.raises(Interrupted):
        await Run(edge, tmp_path, chunk_size=100 * KIB).push(source)
    edge.script = None
    edge.bodies.clear()
    run = Run(edge, tmp_path, chunk_size=100 * KIB)
    await run.push(source)
    assert any("resumes at byte 204800" in event for event in run.events)
    assert [size for size in edge.bodies if size >= 100 * KIB] == [100 * KIB]
    await check_pull(edge, source)


async def test_a_lost_session_begins_anew(tmp_path: Path) -> None:
    """When the registry has lost the session of an earlier run, the layer is sent from its beginning."""
    edge = FakeEdge()
    source = layout(tmp_path, noise("lost", 300 * KIB))
    run = Run(edge, tmp_path, chunk_size=100 * KIB)
    digest = digest_of(noise("lost", 300 * KIB))
    cache = Cache(tmp_path / "cache")
    cache.note(
        f"upload https://registry.example/team/app {digest}",
        {"location": "https://registry.example/v2/team/app/blobs/uploads/nonsense"},
    )
    cache.close()
    await run.push(source)
    await check_pull(edge, source)


async def test_it_gives_up(tmp_path: Path) -> None:
    """A registry that never answers is tried a limited number of times."""
    edge = FakeEdge(script=lambda: "unheard")
    with pytest.raises(Unreachable, match=r"the answer was lost, tried 4 times"):
        await Run(edge, tmp_path, retries=3).push(layout(tmp_path, b"x"))


async def test_wrong_credentials(tmp_path: Path) -> None:
    """The message has the user name, not the password."""
    edge = FakeEdge()
    run = Run(edge, tmp_path, credentials=Credentials("hello", "secret-of-mine"))
    with pytest.raises(Refused, match="refused the credentials of hello") as caught:
        await run.push(layout(tmp_path, b"x"))
    assert "secret-of-mine" not in str(caught.value)


async def test_no_credentials(tmp_path: Path) -> None:
    """The message says how to log in."""
    with pytest.raises(Refused, match=r"docker login registry\.example"):
        await Run(FakeEdge(), tmp_path, credentials=None).push(layout(tmp_path, b"x"))


async def test_read_only(tmp_path: Path) -> None:
    """An account that may only pull gets the registry's own message."""
    run = Run(FakeEdge(), tmp_path, credentials=Credentials("reader", "looks-only"))
    with pytest.raises(Refused, match="403"):
        await run.push(layout(tmp_path, b"x"))


async def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    """A dry run prints what would be pushed."""
    edge = FakeEdge()
    run = Run(edge, tmp_path, dry_run=True)
    pusher = await run.push(layout(tmp_path, layer("a", KIB)))
    assert {each.split()[0] for each in edge.seen} == {"HEAD"}
    assert pusher.counts.pushed == 2
    assert any("would be pushed" in event for event in run.events)


async def test_mounting(tmp_path: Path) -> None:
    """A blob of another repository is mounted, also when the last of several named repositories has it."""
    edge = FakeEdge()
    edge.registry.side_by_side = False
    content = layer("shared", 9 * KIB)
    await edge.registry.push_blob("other/app", content)
    edge.registry.side_by_side = True
    pusher = await Run(edge, tmp_path, mount_from=("nobody/here", "other/app")).push(layout(tmp_path, content))
    assert (pusher.counts.mounted, pusher.counts.pushed) == (1, 1)


async def test_an_index(tmp_path: Path) -> None:
    """A multi-platform image: each image is pushed by its digest, the index by its tag."""
    made = OciLayout(tmp_path / "layout")
    images = {each: made.add_image([layer(each, KIB), layer("both", KIB)], each) for each in ("amd64", "arm64")}
    made.tag("1", made.add_index(images))
    edge = FakeEdge()
    pusher = await Run(edge, tmp_path).push(f"oci:{made.folder}")
    assert pusher.counts.pushed == 5
    edge.registry.side_by_side = False
    for descriptor in images.values():
        assert (await edge.registry.call("GET", f"/v2/team/app/manifests/{descriptor['digest']}")).status == 200


async def test_a_damaged_layer(tmp_path: Path) -> None:
    """When the registry refuses a file with other bytes than its digest, the message names the file."""
    source = layout(tmp_path, b"right")
    path = tmp_path / "layout/blobs/sha256" / digest_of(b"right")[7:]
    path.write_bytes(b"wrong")
    with pytest.raises(Failure, match=f"{path.name} does not match its digest"):
        await Run(FakeEdge(), tmp_path).push(source)


async def test_a_refused_blob_is_not_called_damaged(tmp_path: Path) -> None:
    """A sha512 blob is checked by sha512, so a refusal does not blame a sound file."""
    path = tmp_path / "blob"
    path.write_bytes(b"right")
    assert Blob(digest_of(b"right", "sha512"), whole(path)).is_sound()
    assert not Blob(digest_of(b"wrong", "sha512"), whole(path)).is_sound()


def test_what_is_shown_of_an_upload() -> None:
    """No message has the session's ID or the query."""
    assert shown("/v2/a/blobs/uploads/0123456789abcdef?state=secret") == "/v2/a/blobs/uploads/01234567..."


async def test_retry_after_is_kept() -> None:
    """The wait is at least the registry's Retry-After."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    await Retries(3, sleep).pause(1, httpx.Response(429, headers={"Retry-After": "17"}), "x")
    await Retries(3, sleep).pause(2, httpx.Response(503, headers={"Retry-After": "soon"}), "x")
    assert slept[0] == 17
    assert 0 < slept[1] <= 1
