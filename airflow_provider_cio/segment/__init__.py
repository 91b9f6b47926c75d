"""Segment's Tracking API: client, batches, and the sink of a run."""
