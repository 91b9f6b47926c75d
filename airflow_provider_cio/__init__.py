"""Airflow provider that sends Customer.io's message events to Segment or into a warehouse."""

__version__ = "1.0.0rc1"
