"""Terms of the specifications: names, errors, endpoints, manifests, ranges. No I/O; it imports no other package."""
