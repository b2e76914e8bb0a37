"""Unit and property tests on the fake bindings; the folders are those of `src/registry`."""
