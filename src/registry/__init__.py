"""A container registry on R2. CONTRIBUTING.md draws its packages; `registry.api.router` answers a request."""
