"""Makes every R2 call of every flow fail, in each way, once and for good. No acknowledged blob may be lost or changed.

Parts and R2's rules about them are scaled down, so that thousands of pushes take seconds.
"""

import json
from collections.abc import Awaitable, Callable, Iterator

import pytest

from tests.fakes.client import FakeRegistry, digest_of
from tests.fakes.faults import Fault, FaultyStorage, PatientClient
from tests.images import image
from tests.invariants import PART, check_blob
from tests.unit.uploads.test_uploads import bytes_of

pytestmark = pytest.mark.usefixtures("small_parts")
NAME = "team/app"
# The faults that a run of the tests injected; `tests.conftest` prints them.
injected = {"faults": 0, "runs": 0}


Push = Callable[[FakeRegistry, int], Awaitable[bool]]


def push_of(size: int, *chunks: int) -> Push:
    """A flow that pushes one blob in chunks (negative: without a length; none: in the PUT)."""
    data = bytes_of(size)

    async def push(registry: FakeRegistry, attempts: int) -> bool:
        done = await PatientClient(registry, NAME, attempts).push(data, chunks)
        await check_later(registry, NAME, data, acknowledged=done)
        return done

    return push


async def check_later(registry: FakeRegistry, name: str, data: bytes, *, acknowledged: bool) -> None:
    """Check the blob on the bucket itself, without injected faults."""
    storage, registry.storage = registry.storage, None
    registry.restart()
    await check_blob(registry, name, data, acknowledged=acknowledged)
    registry.storage = storage
    registry.restart()


def mount_of(size: int) -> Push:
    """A flow that mounts a blob, and uploads it when the answer is 202."""
    data = bytes_of(size)

    async def mount(registry: FakeRegistry, attempts: int) -> bool:
        client = PatientClient(registry, "other", attempts)
        url = f"/v2/other/blobs/uploads/?mount={digest_of(data)}&from={NAME}"
        done = False
        for _ in range(attempts):
            answer = await client.call("POST", url)
            done = answer.status == 201
            if answer.status not in (429, 503):
                break
        done = done or await client.push(data, [-size])
        await check_later(registry, "other", data, acknowledged=done)
        await check_later(registry, NAME, data, acknowledged=True)
        return done

    return mount


async def put_manifest(registry: FakeRegistry, attempts: int) -> bool:
    """Put a manifest with a subject and two tags."""
    subject = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest_of(b"s"), "size": 1}
    manifest = json.dumps(image(bytes_of(10), [bytes_of(PART + 7)], subject=subject)).encode()
    client = PatientClient(registry, NAME, attempts)
    url = f"/v2/{NAME}/manifests/{digest_of(manifest)}"
    done = False
    for _ in range(attempts):
        answer = await client.call("PUT", f"{url}?tag=1&tag=2", manifest)
        done = answer.status == 201
        if done:
            break
    storage, registry.storage = registry.storage, None
    registry.restart()
    for reference in (digest_of(manifest), "1", "2"):
        got = await registry.call("GET", f"/v2/{NAME}/manifests/{reference}")
        assert got.status == 200 or (got.status == 404 and not done)
        assert got.status != 200 or got.body == manifest
    assert not done or registry.bucket.keys(f"{NAME}/_referrers/")
    registry.storage = storage
    registry.restart()
    return done


FLOWS: dict[str, Push] = {
    "put small": push_of(100),
    "put large": push_of(PART + 100),
    "put of unknown length": push_of(3 * PART + 7, -(3 * PART + 7)),
    "chunk small": push_of(100, -100),
    "chunk of exactly a part": push_of(PART, -PART),
    "chunk large, known": push_of(5 * PART + 7, 5 * PART + 7),
    "three chunks": push_of(3 * PART + 9, -1000, 2 * PART, -(PART - 991)),
    "small chunks that are joined": push_of(PART + 50, 1000, -1500, 2000),
    "large parts with a chunk of unknown length": push_of(8 * PART, 4 * PART, -(2 * PART + 5)),
    "mount small": mount_of(200),
    "mount large": mount_of(PART + 200),
    "manifest": put_manifest,
}


async def prepared(fault: FaultyStorage | None = None) -> tuple[FakeRegistry, FaultyStorage]:
    """A registry with the blobs for mounts and manifests, on a storage that injects faults."""
    registry = FakeRegistry()
    for size in (200, PART + 200, 10, PART + 7):
        await registry.push_blob(NAME, bytes_of(size))
    storage = fault or FaultyStorage(registry.bucket)
    storage.bucket = registry.bucket
    registry.storage = storage
    registry.restart()
    return registry, storage


def faults(calls: int) -> Iterator[FaultyStorage]:
    """Yield a faulty storage for every call and kind of fault, once and for good."""
    for at in range(calls):
        for fault in Fault:
            for for_good in (False, True):
                yield FaultyStorage(FakeRegistry().bucket, at, fault, for_good)


@pytest.mark.parametrize("name", FLOWS)
async def test_every_fault(name: str) -> None:
    """After one fault a retry succeeds; during an outage the client gets errors, and succeeds afterwards."""
    registry, storage = await prepared()
    assert await FLOWS[name](registry, 12)
    calls = storage.calls
    assert calls > 0
    for fault in faults(calls):
        registry, storage = await prepared(fault)
        done = await FLOWS[name](registry, 3 if fault.for_good else 12)
        assert done or fault.for_good, f"{name}: call {fault.at} failed once, {fault.fault.value}"
        storage.heal()
        assert await FLOWS[name](registry, 12), f"{name}: after call {fault.at} failed {fault.fault.value}"
        injected["faults"] += storage.injected
        injected["runs"] += 1


def test_enough_faults_were_injected() -> None:
    """At least 300 faults were tested."""
    assert injected["runs"] >= 300
    assert injected["faults"] >= injected["runs"]
