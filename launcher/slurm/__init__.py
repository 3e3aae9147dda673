"""SLURM: its commands, and the text of a batch script."""
