"""The contract of the storage port: the fake and the real R2 both pass it."""
