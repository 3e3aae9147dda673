"""Ways to start the agents of a job on its nodes: srun, or ssh."""
