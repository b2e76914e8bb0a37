"""Interfaces to the place the registry runs in: the bucket, the web, cryptography, time and memory.

Retries and buffers, which every call passes through, are here. It uses `registry.spec` and `registry.telemetry`.
"""
