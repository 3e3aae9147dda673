"""Heartbeats of a rank, stacks of its threads on request, and the rule that finds slow ranks."""
