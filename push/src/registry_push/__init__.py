"""Pushes container images in chunks, so that large layers pass small request limits (docs/push.md)."""
