"""Decides which updates are skipped because of their loss or gradient norm. Pure; no torch.

In large runs one bad batch or one flipped bit can cause a loss spike, and the moments prolong it
(PaLM, arXiv 2204.02311, section 5.1). An update whose loss or norm is far above the recent values
is skipped, as in OLMo 2 (arXiv 2501.00656, section 3.3).

The values of a skipped update are recorded too, but clipped to twice the allowed distance from the
mean. If the norm of a run stays at a higher level, the limit reaches it after a few steps. Without
these values every later update would be skipped.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from bigtrain.config.sections import GuardConfig

MIN_RELATIVE_DEVIATION = 0.01
"""Minimum of the standard deviation divided by the mean: after nearly equal values, rounding noise
must not be an outlier."""
OUTLIER_CLIP = 2.0
"""An outlier is recorded as at most this many times ``sigmas`` deviations above the mean."""


class Guard:
    """Decides which updates to skip. All ranks give it the same numbers, so all decide the same."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._sigmas = config.sigmas or math.inf
        self._losses: deque[float] = deque(maxlen=config.window)
        self._grad_norms: deque[float] = deque(maxlen=config.window)
        self.skipped_updates = 0
        self.skipped_in_a_row = 0

    @property
    def must_stop(self) -> bool:
        """Whether so many updates in a row were skipped that the run must stop."""
        return self.skipped_in_a_row >= self._config.stop_after

    def reason_to_skip(self, loss: float, grad_norm: float) -> str | None:
        """Records a step's values and returns why its update must be skipped; None to apply it.

        Args:
            loss: The step's loss, over all ranks.
            grad_norm: Global norm of its gradient, before clipping.
        """
        reasons = [
            self._reason("loss", loss, self._losses),
            self._reason("gradient's norm", grad_norm, self._grad_norms),
        ]
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self._record(self._losses, loss)
            self._record(self._grad_norms, grad_norm)
        reason = next(filter(None, reasons), None)
        if reason is None:
            self.skipped_in_a_row = 0
        else:
            self.skipped_updates += 1
            self.skipped_in_a_row += 1
        return reason

    @property
    def state(self) -> dict[str, Any]:
        """The state for `restore`, as JSON values."""
        return {
            "losses": list(self._losses),
            "grad_norms": list(self._grad_norms),
            "skipped_updates": self.skipped_updates,
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restores the state of a checkpoint; if it is empty, no earlier values are known."""
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
            f"above {mean:.4g}, the mean of the last {len(recent)} steps"
        )

    def _record(self, recent: deque[float], value: float) -> None:
        mean, deviation = self._expected(recent)
        recent.append(min(value, mean + OUTLIER_CLIP * self._sigmas * deviation))

    def _expected(self, recent: Sequence[float]) -> tuple[float, float]:
        """Mean and deviation of the recent values; infinite deviation if too few."""
        if math.isinf(self._sigmas) or 2 * len(recent) < self._config.window:
            return 0.0, math.inf
        past = np.array(recent)
        mean = float(past.mean())
        return mean, max(float(past.std()), MIN_RELATIVE_DEVIATION * abs(mean), 1e-12)
