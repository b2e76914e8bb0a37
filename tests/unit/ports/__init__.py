"""Tests of `registry.ports`."""
