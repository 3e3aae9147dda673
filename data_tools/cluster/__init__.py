"""Runs the jobs of this package on a SLURM cluster: array jobs, sealed by a job that waits."""
