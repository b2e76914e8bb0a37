"""Pull fallback: asks upstream registries and copies their content. Uses `registry.uploads` and the layers below it."""
