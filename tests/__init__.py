"""Tests: on fake bindings here, in real workerd in `workerd/`, with real clients in `clients/`."""
