"""What a repository holds: blobs, manifests, tags, referrers; how they are pushed, listed and deleted.

It uses `registry.access` and what is below.
"""
