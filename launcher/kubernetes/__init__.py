"""Runs on Kubernetes: an indexed Job as text, and what runs in its pods. Nothing is submitted."""
