"""The learning rate of each step. Pure; no torch."""

import math

from bigtrain.config import RunConfig


def learning_rate(config: RunConfig, step: int) -> float:
    """The learning rate of the update that ends step ``step`` (the first is 1).

    Linear warm-up over optim.warmup_steps, then the decay of optim.schedule down to
    optim.min_learning_rate at the end of the decay, and that from there on.
    """
    optim = config.optim
    if step <= optim.warmup_steps:
        return optim.learning_rate * step / optim.warmup_steps
    if optim.schedule == "constant":
        return optim.learning_rate
    span = config.decay_steps - optim.warmup_steps
    progress = min(1.0, (step - optim.warmup_steps) / span)
    shape = 1 - progress if optim.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return optim.min_learning_rate + (optim.learning_rate - optim.min_learning_rate) * shape
