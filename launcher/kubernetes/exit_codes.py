"""Exit codes of a pod that mean more to the Job than success and failure."""

STOPPED = 75
"""The run was asked to stop, and saved: a new pod resumes it."""
