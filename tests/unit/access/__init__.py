"""Tests of `registry.access`."""
