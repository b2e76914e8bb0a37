"""Media types that are not a manifest's."""

JSON = "application/json"
OCTETS = "application/octet-stream"
