"""Interfaces to the runtime: the bucket, other servers, cryptography, time and memory.

It also has the retries of storage calls and the buffers. It imports `registry.spec` and `registry.telemetry`.
"""
