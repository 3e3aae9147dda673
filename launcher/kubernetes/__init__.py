"""Runs on Kubernetes: renders an indexed Job, and runs the ranks in its pods. Submits nothing."""
