"""The operator's command for keys and tokens. It runs on the host and is no part of the Worker."""
