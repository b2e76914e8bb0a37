"""Upload sessions: chunks of a blob on their way into R2. It uses `registry.content` and what is below."""
