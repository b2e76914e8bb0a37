"""What operators see: the log, what is noted of a request, and the metrics. It uses `registry.spec`."""
