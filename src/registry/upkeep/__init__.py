"""Maintenance, by cron trigger or on request: garbage collection, retention, verification, migration.

May import `registry.uploads` and the packages below it.
"""
