"""Access control: authentication of the caller, authorization of the request, and the challenge of a 401.

It imports `registry.storage` and the packages below.
"""
