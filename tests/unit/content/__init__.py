"""Tests of `registry.content`."""
