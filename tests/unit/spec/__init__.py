"""Tests of `registry.spec`."""
