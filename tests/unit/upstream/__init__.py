"""Tests of `registry.upstream`."""
