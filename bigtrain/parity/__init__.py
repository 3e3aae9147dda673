"""Proof that a layout trains the same model: a few steps in each, compared with one process."""
