"""HTTP for all clients: retries, rate limit, errors that may be shown."""
