"""Runs the jobs of this package on a SLURM cluster: arrays, and a dependent job that seals them."""
