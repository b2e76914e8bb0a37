"""What runs by the cron trigger, or when an operator asks: garbage collection, retention, verification, migration.

It uses `registry.uploads` and what is below.
"""
