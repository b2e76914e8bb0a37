"""Access control: who sends a request, what that caller may do, and the challenge when it may not.

It uses `registry.storage` and what is below.
"""
