"""The loop, and what stands around it: the run folder, stopping, resuming."""
