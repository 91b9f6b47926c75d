"""End to end: a real Airflow against the sandbox."""
