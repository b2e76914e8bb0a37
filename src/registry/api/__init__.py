"""HTTP: the router, a module of handlers for each kind of resource, CORS, the request log. May import all packages."""
