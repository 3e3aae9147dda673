"""Checkpoints hold global tensors, whatever layout saved them: any layout can load them."""
