"""Retries of storage calls, and how they are counted: `registry.ports.retries`."""

from collections.abc import Awaitable, Callable

import pytest

from registry.ports.retries import RetryingStorage, sent_by
from registry.ports.storage import ABSENT, Attributes, MultipartUpload, StorageBusy, StorageError
from registry.telemetry.counting import count
from registry.telemetry.request_record import RequestRecord, current
from tests.fakes.client import START, Clock
from tests.fakes.r2 import FakeR2
from tests.fakes.streams import FakeSource

UPLOAD = MultipartUpload("key", "upload")
NONCE = Attributes(metadata={"nonce": "1"})
# A call, its price class, and how often it is sent while it fails. After a put that may have arrived, a head follows.
CALLS: dict[str, tuple[Callable[[RetryingStorage], Awaitable[object]], str, int]] = {
    "head": (lambda storage: storage.head("key"), "class_b", 3),
    "get": (lambda storage: storage.get("key"), "class_b", 3),
    "put": (lambda storage: storage.put("key", b"", NONCE), "class_a", 3),
    "put of what is absent": (lambda storage: storage.put("key", b"", NONCE, only_if=ABSENT), "class_a", 1),
    "put of a stream": (lambda storage: storage.put("key", FakeSource([], 0)), "class_a", 1),
    "delete": (lambda storage: storage.delete(["key"]), "free", 3),
    "list": (lambda storage: storage.list(""), "class_a", 3),
    "create_upload": (lambda storage: storage.create_upload("key"), "class_a", 3),
    "upload_part of a stream": (lambda storage: storage.upload_part(UPLOAD, 1, FakeSource([], 0)), "class_a", 1),
    "complete_upload": (lambda storage: storage.complete_upload(UPLOAD, ["1"]), "class_a", 3),
    "abort_upload": (lambda storage: storage.abort_upload(UPLOAD), "free", 3),
}


def make(error: Exception, seconds: float = 0.0) -> tuple[RetryingStorage, Clock, list[str]]:
    """A storage whose calls all fail after `seconds`, its clock, and the list of the calls that were sent."""
    clock, sent = Clock(), list[str]()

    def fail(call: str, key: str) -> None:
        sent.append(call)
        clock.now += seconds
        raise error

    bucket = FakeR2(clock)
    bucket.fail = fail
    return RetryingStorage(bucket, clock, clock.sleep, count), clock, sent


@pytest.mark.parametrize("name", CALLS)
async def test_every_attempt_is_counted(name: str) -> None:
    """Every attempt counts in its price class. A call that cannot be repeated is sent once."""
    call, price, attempts = CALLS[name]
    storage, _, sent = make(StorageError("broken"))
    record = RequestRecord("id")
    token = current.set(record)
    with pytest.raises(StorageError):
        await call(storage)
    current.reset(token)
    looks = 3 if attempts == 1 and price == "class_a" and "put" in name else 0
    assert len(sent) == attempts + looks
    expected = {"class_a": 0, "class_b": looks, "free": 0}
    expected[price] += attempts
    assert {price: getattr(record, price) for price in expected} == expected


async def test_any_call_is_retried_after_storage_busy() -> None:
    """StorageBusy means that the call took no effect: any call is retried, after a longer pause."""
    for name in ("put", "put of what is absent", "head"):
        storage, clock, sent = make(StorageBusy("slow down"))
        with pytest.raises(StorageBusy):
            await CALLS[name][0](storage)
        assert len(sent) == 3
        assert clock.now >= START + 3


async def test_nothing_is_sent_after_the_deadline() -> None:
    """When a call fails after the deadline of `sent_by`, it is not retried."""
    storage, clock, sent = make(StorageError("broken"), seconds=95)
    with pytest.raises(StorageError), sent_by(clock.now + 60):
        await storage.delete(["key"])
    assert sent == ["delete"]
    with pytest.raises(StorageError):
        await storage.delete(["key"])
    assert len(sent) == 4
