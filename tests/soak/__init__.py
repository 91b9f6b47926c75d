"""Run hundreds of hourly intervals through the operator with random faults, and check for lost events and growth."""
