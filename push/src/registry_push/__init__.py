"""Pushes container images in chunks, so that large layers pass small request limits (docs/push.md)."""

__version__ = "0.1.0"  # as in pyproject.toml
