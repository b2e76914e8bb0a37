"""Invariants of the bucket that hold after any sequence of requests and faults."""

from contextlib import ExitStack
from unittest import mock

from registry.content import blobs
from registry.uploads import parts
from tests.fakes import r2
from tests.fakes.client import FakeRegistry, digest_of

# Bytes of a part in tests with thousands of pushes.
PART = 4096


def small_parts() -> ExitStack:
    """Scale down all sizes that depend on parts, including R2's minimum; closing the stack restores them."""
    patches = ExitStack()
    for module, name, value in (
        (parts, "SMALL_PART", PART),
        (parts, "LARGE_PART", 4 * PART),
        (blobs, "LARGE_BLOB", PART),
        (r2, "MIN_PART_SIZE", PART // 2),
    ):
        patches.enter_context(mock.patch.object(module, name, value))
    return patches


def check_links(registry: FakeRegistry) -> None:
    """Check that every link has its ref and its data."""
    for key, found in registry.bucket.objects.items():
        metadata = found.attributes.metadata
        if "/blobs/" in key and "target" in metadata:
            name = key.partition("/blobs/")[0]
            assert f"_refs/{metadata['target']}/{metadata['ref']}/{name}" in registry.bucket.objects
            assert f"_data/{metadata['target']}" in registry.bucket.objects


async def check_blob(registry: FakeRegistry, name: str, data: bytes, *, acknowledged: bool) -> None:
    """Check that an acknowledged blob reads back byte for byte; another one may be missing, but not wrong."""
    check_links(registry)
    answer = await registry.call("GET", f"/v2/{name}/blobs/{digest_of(data)}", budget=200)
    assert answer.status == 200 or (answer.status == 404 and not acknowledged), answer
    if answer.status == 200:
        assert answer.body == data
