"""Settings: `registry.settings`."""

import pytest

from registry.settings import CHUNK_STEP, DEFAULT_CHUNK_MAX_LENGTH, read_settings


@pytest.mark.parametrize(
    ("value", "length", "is_told"),
    [
        (None, DEFAULT_CHUNK_MAX_LENGTH, False),
        (str(2 * CHUNK_STEP), 2 * CHUNK_STEP, False),
        ("0", DEFAULT_CHUNK_MAX_LENGTH, True),
        ("100000000", DEFAULT_CHUNK_MAX_LENGTH, True),
        ("95MB", DEFAULT_CHUNK_MAX_LENGTH, True),
        ("-8388608", DEFAULT_CHUNK_MAX_LENGTH, True),
    ],
)
def test_chunk_max_length(value: str | None, length: int, is_told: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """The value must be a multiple of 8 MiB; any other is ignored, with an event in the log."""
    assert read_settings({"CHUNK_MAX_LENGTH": value}.get).chunk_max_length == length
    assert ("setting-ignored" in capsys.readouterr().out) == is_told
