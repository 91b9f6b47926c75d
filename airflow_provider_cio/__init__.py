"""Airflow provider that turns what happened to Customer.io's messages into Segment events."""

__version__ = "0.1.0"
