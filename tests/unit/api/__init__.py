"""Tests of `registry.api`."""
