"""Tests of `registry.upkeep`."""
