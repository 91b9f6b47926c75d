"""Logs, metrics, asset events and lineage of a run."""
