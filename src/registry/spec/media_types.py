"""Media types other than those of manifests."""

JSON = "application/json"
OCTETS = "application/octet-stream"
