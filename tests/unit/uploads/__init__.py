"""Tests of `registry.uploads`."""
