"""How well a run uses its devices: MFU and HFU, memory, and where the time of a step goes."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from bigtrain.config import RunConfig
from bigtrain.config.layout import Layout
from bigtrain.models.translate import DTYPES
from bigtrain.parallel.device import (
    device_name,
    mark_time,
    measure_product_rate,
    peak_memory_bytes,
    runs_on_cpu,
    seconds_between,
)
from bigtrain.plan.flops import SampleFlops, model_flops
from bigtrain.plan.peaks import peak_flops

log = logging.getLogger(__name__)

PHASES = ("data", "forward_backward", "optimizer", "report")
"""The parts of a step, in their order; what each one is, ``Meter.begin`` tells."""
RANGE_PREFIX = "bigtrain: "
"""Begins the names of the phases in a profile."""
_WINDOWS, _WINDOW_SECONDS = 3, 0.05


class Meter:
    """Takes the times of a step and turns them into numbers; the same on every rank.

    It never waits for a GPU: on one, phases are marked in its queue and read after the one wait
    that a step makes anyway. Communication hides inside the phases; only a
    profile (``train.profile``) can tell its share.
    """

    def __init__(self, config: RunConfig, *, layout: Layout, device: torch.device) -> None:
        """Finds the peak to measure against; on CPU all ranks take part, for some 0.2 s.

        Args:
            config: The run.
            layout: The grid; the process groups must stand.
            device: Where the ranks compute.
        """
        self._config, self._layout, self._device = config, layout, device
        self._peak = find_peak_of_all_ranks(config, layout=layout, device=device)
        self._flops: dict[int, SampleFlops] = {}
        self._marks: list[tuple[str, Any]] = []
        self._names_ranges = config.profile.at_step is not None
        self._range: Any = None
        self._between: dict[str, float] = {}

    def begin(self, phase: str) -> None:
        """Ends the phase before, if there is one, and begins another.

        ``data``: waiting for the batch. ``forward_backward``: all passes, the reductions of the
        gradients and their norm. ``optimizer``: from there to the new weights. ``report``: what is
        left; it ends the optimizer's.
        """
        assert phase in PHASES
        self._close_range()
        if self._names_ranges:
            self._range = torch.profiler.record_function(RANGE_PREFIX + phase)
            self._range.__enter__()
        self._marks.append((phase, mark_time(self._device)))

    @contextmanager
    def between_steps(self, name: str) -> Iterator[None]:
        """Times what happens between two steps, such as ``checkpoint``; told with the next step."""
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self._between[name] = self._between.get(name, 0.0) + spent

    def end_step(
        self, *, seconds: float, tokens: float, microbatches: Sequence[Any]
    ) -> dict[str, float]:
        """What a step was worth; call it once the device has been waited for.

        Args:
            seconds: The whole step's.
            tokens: That counted in the loss, over all ranks.
            microbatches: This rank's, each with ``tokens`` of ``[micro batch, sequence]``.

        Returns:
            ``mfu`` and ``hfu`` (shares of the peak of all devices together; absent where it is not
            known), ``tflops_per_device`` (of model FLOPs), ``tokens_per_second_per_device``,
            ``memory_gb`` (this rank's peak so far, in 1e9 bytes), ``PHASE_share`` (of the step's
            seconds, for each phase that another one followed) and ``NAME_seconds`` for what was
            timed between the step before and this one.
        """
        self._close_range()
        useful, computed = self._step_flops(microbatches)
        ranks = self._layout.world_size
        numbers = {
            "tflops_per_device": useful / seconds / ranks / 1e12,
            "tokens_per_second_per_device": tokens / seconds / ranks,
            "memory_gb": peak_memory_bytes(self._device) / 1e9,
        }
        if self._peak is not None:
            numbers["mfu"] = useful / seconds / self._peak
            numbers["hfu"] = computed / seconds / self._peak
        for phase, spent in self._phase_seconds().items():
            numbers[f"{phase}_share"] = spent / seconds
        for name, spent in self._between.items():
            numbers[f"{name}_seconds"] = spent
        self._marks, self._between = [], {}
        return numbers

    def _close_range(self) -> None:
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None

    def _phase_seconds(self) -> Mapping[str, float]:
        spent: dict[str, float] = {}
        for (phase, start), (_, end) in zip(self._marks, self._marks[1:], strict=False):
            spent[phase] = spent.get(phase, 0.0) + seconds_between(start, end)
        return spent

    def _step_flops(self, microbatches: Sequence[Any]) -> tuple[int, int]:
        """Model and hardware FLOPs of the step, over all ranks: each batch rank has as many."""
        useful = computed = 0
        for microbatch in microbatches:
            rows, length = microbatch.tokens.shape
            if length not in self._flops:
                self._flops[length] = model_flops(self._config, sequence_length=length)
            useful += rows * self._flops[length].model
            computed += rows * self._flops[length].hardware
        return useful * self._layout.batch_ranks, computed * self._layout.batch_ranks


def find_peak_of_all_ranks(
    config: RunConfig, *, layout: Layout, device: torch.device
) -> float | None:
    """FLOP/s that all devices of the run could reach together; None where nobody knows.

    From track.peak_tflops, or the table of GPUs, or on CPU measured: all ranks multiply matrices at
    the same time, each with its own threads, so that shared cores are not counted twice, and the
    best of a few such windows counts.

    Args:
        config: The run; every rank calls this.
        layout: The grid; the process groups must stand.
        device: Where the ranks compute.
    """
    name, precision = device_name(device), config.train.precision
    given = config.track.peak_tflops
    if given is not None:
        return given * 1e12 * layout.world_size
    if runs_on_cpu(device):
        peak = _measured_peak(device, DTYPES[precision])
        log.info(
            "MFU is against %.0f GFLOP/s, measured: %s matrix products of all ranks",
            *(peak / 1e9, precision),
        )
        return peak
    known = peak_flops(name, precision)
    if known is None:
        log.warning("no MFU: the peak of %s is not known; set track.peak_tflops", name)
        return None
    log.info("MFU is against %.0f TFLOP/s (%s, dense %s)", known / 1e12, name, precision)
    return known * layout.world_size


def _measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    measure_product_rate(device, dtype, size=1024, seconds=0.0)  # The first one starts threads.
    # What many cores do at once needs larger matrices to keep all of them busy.
    size = 2048 if measure_product_rate(device, dtype, size=1024, seconds=0.0) > 1e12 else 1024
    best = 0.0
    for _ in range(_WINDOWS):
        dist.barrier()
        rate = measure_product_rate(device, dtype, size=size, seconds=_WINDOW_SECONDS)
        total = torch.tensor(rate, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        best = max(best, float(total))
    return best
