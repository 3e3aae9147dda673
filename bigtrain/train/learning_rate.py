"""The learning rate of each step. Pure; no torch."""

import math

from bigtrain.config import RunConfig


def learning_rate(config: RunConfig, step: int) -> float:
    """The learning rate of the update that ends step ``step`` (the first is 1).

    Linear warm-up over optim.warmup_steps, then the shape of optim.schedule, never below
    optim.min_learning_rate; what decays ends there at the end of the decay, and stays.

    inverse_sqrt is that of Vaswani et al., "Attention Is All You Need" (arXiv 1706.03762, section
    5.3, equation 3); wsd that of Hu et al., "MiniCPM" (arXiv 2404.06395, section 4.2), with a
    linear end.
    """
    optim = config.optim
    peak, least, warmup = optim.learning_rate, optim.min_learning_rate, optim.warmup_steps
    if step <= warmup:
        return peak * step / warmup
    if optim.schedule == "constant":
        return peak
    if optim.schedule == "inverse_sqrt":
        return max(least, peak * math.sqrt(max(1, warmup) / step))
    span = config.decay_steps - warmup
    if optim.schedule == "wsd":
        span = min(span, optim.anneal_steps or max(1, config.decay_steps // 10))
    progress = min(1.0, max(0.0, 1 - (config.decay_steps - step) / span))
    cosine = optim.schedule == "cosine"
    left = 0.5 * (1 + math.cos(math.pi * progress)) if cosine else 1 - progress
    return least + (peak - least) * left
