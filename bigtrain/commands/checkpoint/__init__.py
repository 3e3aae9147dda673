"""What the command `bigtrain checkpoint` does: look at checkpoints, verify, compare, prune."""
