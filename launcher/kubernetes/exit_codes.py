"""The exit code of a pod that is neither a success nor a failure for the Job."""

STOPPED = 75
"""The run was asked to stop, and saved: a new pod resumes it."""
