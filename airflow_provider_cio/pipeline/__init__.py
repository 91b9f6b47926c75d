"""Joins a source to a sink: read, map, deliver; counts, checkpoints, dead letters, previews."""
