"""Costs of a run in closed form: parameters, FLOPs, and the peak FLOP/s of GPUs."""
