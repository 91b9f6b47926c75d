"""Segment's Tracking API: its client, batches, and the sink of a run."""
