"""Supervises the ranks of a run on the nodes of a job: watches, decides, restarts. No torch."""
