"""The training loop, and one attempt at a run around it: start, saves, stop."""
