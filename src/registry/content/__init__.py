"""The content of a repository (blobs, manifests, tags, referrers): push, listing and deletion.

May import `registry.access` and the packages below it.
"""
