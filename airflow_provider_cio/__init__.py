"""Airflow provider that sends Customer.io's message events to Segment or into a warehouse."""

__version__ = "0.1.0"
