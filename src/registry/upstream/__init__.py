"""Pull fallback: other registries, and copies of what they serve. It uses `registry.uploads` and what is below."""
