"""A run config becomes a running job, on this machine or on a cluster. Never imports torch."""
