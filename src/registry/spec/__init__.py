"""What the specifications name: names, errors, endpoints, manifests, ranges. No I/O; it uses no other package."""
