"""Tests of `push/`."""
