"""Checkpoints know tensors, not ranks: any layout loads what any other saved."""
