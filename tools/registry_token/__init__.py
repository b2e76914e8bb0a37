"""The operator's command for keys and tokens. It runs on the operator's machine, not in the Worker."""
