"""What operators see: the log, the record of each request, and metrics. It imports `registry.spec` only."""
