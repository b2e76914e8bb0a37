"""Tests of registry-push (`push/`)."""
