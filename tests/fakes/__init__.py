"""Fake bindings, at least as strict as the real ones."""
