"""How the bucket is laid out and looked through: keys, listings in a bounded number of calls, the transfer of bytes.

It uses `registry.ports` and what is below.
"""
