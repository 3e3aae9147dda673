"""Which updates are not applied, because their loss or gradient is off. Pure; no torch.

Large runs meet spikes that one bad batch or one flipped bit begins, and that the moments then
carry on (PaLM, arXiv 2204.02311, section 5.1). A loss or norm far above its recent past is passed
over before it does harm, as OLMo 2 does (arXiv 2501.00656, section 3.3).

What was passed over is part of the past too, though only as the edge of what is thought possible: a
run whose norm has moved to another level for good is believed after a few steps, where one that
forgot its outliers would pass over everything from then on.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from bigtrain.config.sections import GuardConfig

LEAST_DEVIATION = 0.01
"""Of the mean: a past that is flat must not make outliers of rounding noise."""
EDGE = 2.0
"""In units of sigmas above the mean: an outlier is remembered as no more than this."""


class Guard:
    """Judges updates; what it answers follows from its past alone, so all ranks agree."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._sigmas = config.sigmas or math.inf
        self._losses: deque[float] = deque(maxlen=config.window)
        self._grad_norms: deque[float] = deque(maxlen=config.window)
        self.skipped_updates = 0
        self.skipped_in_a_row = 0

    @property
    def gives_up(self) -> bool:
        """Whether so many updates in a row were passed over that the run must stop."""
        return self.skipped_in_a_row >= self._config.stop_after

    def judge(self, loss: float, grad_norm: float) -> str | None:
        """Says why an update must not be applied, or None where it may, and remembers it.

        Args:
            loss: Of the step, over all ranks.
            grad_norm: Global norm of its gradient, before clipping.
        """
        reasons = [
            self._reason("loss", loss, self._losses),
            self._reason("gradient's norm", grad_norm, self._grad_norms),
        ]
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self._remember(self._losses, loss)
            self._remember(self._grad_norms, grad_norm)
        reason = next(filter(None, reasons), None)
        if reason is None:
            self.skipped_in_a_row = 0
        else:
            self.skipped_updates += 1
            self.skipped_in_a_row += 1
        return reason

    @property
    def state(self) -> dict[str, Any]:
        """What `restore` takes, as JSON."""
        return {
            "losses": list(self._losses),
            "grad_norms": list(self._grad_norms),
            "skipped_updates": self.skipped_updates,
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint's state; an empty one is a past that nobody knows."""
        for recent, key in ((self._losses, "losses"), (self._grad_norms, "grad_norms")):
            recent.clear()
            recent.extend(state.get(key, ()))
        self.skipped_updates = state.get("skipped_updates", 0)
        self.skipped_in_a_row = state.get("skipped_in_a_row", 0)

    def _reason(self, what: str, value: float, recent: Sequence[float]) -> str | None:
        if not math.isfinite(value):
            return f"the {what} is {value:g}"
        mean, deviation = self._expected(recent)
        if value <= mean + self._sigmas * deviation:
            return None
        return (
            f"the {what} of {value:.4g} is {(value - mean) / deviation:.1f} standard deviations "
            f"above the {mean:.4g} of the last {len(recent)} steps"
        )

    def _remember(self, recent: deque[float], value: float) -> None:
        mean, deviation = self._expected(recent)
        recent.append(min(value, mean + EDGE * self._sigmas * deviation))

    def _expected(self, recent: Sequence[float]) -> tuple[float, float]:
        """Mean and deviation of the past; anything is expected where too little is known."""
        if math.isinf(self._sigmas) or 2 * len(recent) < self._config.window:
            return 0.0, math.inf
        past = np.array(recent)
        mean = float(past.mean())
        return mean, max(float(past.std()), LEAST_DEVIATION * abs(mean), 1e-12)
