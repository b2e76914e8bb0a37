"""The layout of the bucket and access to it: keys, listings in a bounded number of calls, the transfer of bytes.

It imports `registry.ports` and the packages below.
"""
