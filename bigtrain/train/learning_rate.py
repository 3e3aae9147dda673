"""The learning rate of each step. Pure; no torch."""

import math

from bigtrain.config import RunConfig


def learning_rate(config: RunConfig, step: int) -> float:
    """The learning rate of the update that ends step ``step`` (the first is 1).

    Linear warm-up over optim.warmup_steps, then the shape of optim.schedule, never below
    optim.min_learning_rate. linear, cosine and wsd reach that minimum when the decay ends.

    inverse_sqrt follows Vaswani et al., "Attention Is All You Need" (arXiv 1706.03762, section 5.3,
    equation 3); wsd follows Hu et al., "MiniCPM" (arXiv 2404.06395, section 4.2), with a linear
    decay.
    """
    optim = config.optim
    peak, minimum, warmup = optim.learning_rate, optim.min_learning_rate, optim.warmup_steps
    if step <= warmup:
        return peak * step / warmup
    if optim.schedule == "constant":
        return peak
    if optim.schedule == "inverse_sqrt":
        return max(minimum, peak * math.sqrt(max(1, warmup) / step))
    span = config.decay_steps - warmup
    if optim.schedule == "wsd":
        span = min(span, optim.anneal_steps or max(1, config.decay_steps // 10))
    progress = min(1.0, max(0.0, 1 - (config.decay_steps - step) / span))
    cosine = optim.schedule == "cosine"
    factor = 0.5 * (1 + math.cos(math.pi * progress)) if cosine else 1 - progress
    return minimum + (peak - minimum) * factor
