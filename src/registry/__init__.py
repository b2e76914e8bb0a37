"""A container registry on R2. CONTRIBUTING.md lists the packages; `registry.api.router` answers requests."""
