"""Upload sessions, which turn the chunks of a client into a blob. May import `registry.content` and packages below."""
