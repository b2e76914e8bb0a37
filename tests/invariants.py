"""What holds whatever happens."""

from contextlib import ExitStack
from unittest import mock

from registry.content import blobs
from registry.uploads import parts
from tests.fakes import r2
from tests.fakes.client import FakeRegistry, digest_of

# Bytes of a part in tests that push thousands of times.
PART = 4096


def small_parts() -> ExitStack:
    """Everything that counts in parts, scaled down, and R2's own rule with it; undone when it is closed."""
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
    """Every link has its ref and its data; refs are never fewer than links."""
    for key, found in registry.bucket.objects.items():
        metadata = found.attributes.metadata
        if "/blobs/" in key and "target" in metadata:
            name = key.partition("/blobs/")[0]
            assert f"_refs/{metadata['target']}/{metadata['ref']}/{name}" in registry.bucket.objects
            assert f"_data/{metadata['target']}" in registry.bucket.objects


async def check_blob(registry: FakeRegistry, name: str, data: bytes, *, acknowledged: bool) -> None:
    """An acknowledged blob reads back byte for byte; any other is absent or right."""
    check_links(registry)
    answer = await registry.call("GET", f"/v2/{name}/blobs/{digest_of(data)}", budget=200)
    assert answer.status == 200 or (answer.status == 404 and not acknowledged), answer
    if answer.status == 200:
        assert answer.body == data
