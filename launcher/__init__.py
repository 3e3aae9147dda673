"""Starts the job of a run config, on this machine or on a cluster. Never imports torch."""
