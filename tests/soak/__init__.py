"""Hundreds of hourly intervals through the operator, with faults at random: nothing may be lost, nothing may grow."""
