"""The contract of the storage port, which the fake and the real R2 both fulfil."""
