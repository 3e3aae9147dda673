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

STEP_PARTS = ("data", "forward_backward", "optimizer", "report")
"""The parts of a step, in order; `Meter.begin` describes them."""
RANGE_PREFIX = "bigtrain: "
"""Prefix of the names of the parts in a profile."""
_PEAK_WINDOWS, _PEAK_WINDOW_SECONDS = 3, 0.05


class Meter:
    """Measures the times of a step and computes its metrics; the same on every rank.

    It never waits for a GPU: the parts are marked by events in the GPU's stream, which are read
    after the synchronization at the end of the step. Communication is not separated from the parts;
    only a profile (``train.profile``) shows its share.
    """

    def __init__(self, config: RunConfig, *, layout: Layout, device: torch.device) -> None:
        """Finds the peak FLOP/s for MFU; on CPU all ranks measure it together, in about 0.2 s.

        Args:
            config: The run.
            layout: The grid; its process groups must exist.
            device: Where the ranks compute.
        """
        self._config, self._layout, self._device = config, layout, device
        self._peak = find_total_peak_flops(config, layout=layout, device=device)
        self._flops: dict[int, SampleFlops] = {}
        self._marks: list[tuple[str, Any]] = []
        self._names_ranges = config.profile.at_step is not None
        self._range: Any = None
        self._between: dict[str, float] = {}

    def begin(self, part: str) -> None:
        """Ends the current part of the step, if there is one, and begins the next.

        ``data``: waiting for the batch. ``forward_backward``: all passes, the reductions of the
        gradients and their norm. ``optimizer``: from there to the new weights. ``report``: the rest
        of the step, which is not timed.
        """
        assert part in STEP_PARTS
        self._close_range()
        if self._names_ranges:
            self._range = torch.profiler.record_function(RANGE_PREFIX + part)
            self._range.__enter__()
        self._marks.append((part, mark_time(self._device)))

    @contextmanager
    def between_steps(self, name: str) -> Iterator[None]:
        """Times work between two steps, such as ``checkpoint``; reported with the next step."""
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self._between[name] = self._between.get(name, 0.0) + spent

    def end_step(
        self, *, seconds: float, tokens: float, microbatches: Sequence[Any]
    ) -> dict[str, float]:
        """Returns the metrics of a step; call it after the device was synchronized.

        Args:
            seconds: Duration of the step.
            tokens: Tokens that count in the loss, over all ranks.
            microbatches: This rank's, each with ``tokens`` of ``[micro batch, sequence]``.

        Returns:
            ``mfu`` and ``hfu`` (shares of the peak of all devices together; absent if the peak is
            unknown), ``tflops_per_device`` (of model FLOPs), ``tokens_per_second_per_device``,
            ``memory_gb`` (this rank's peak so far, in 1e9 bytes), ``PART_share`` (a share of the
            step's seconds, for each part but ``report``), and ``NAME_seconds`` for work that was
            timed between the previous step and this one.
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
        for part, spent in self._part_seconds().items():
            numbers[f"{part}_share"] = spent / seconds
        for name, spent in self._between.items():
            numbers[f"{name}_seconds"] = spent
        self._marks, self._between = [], {}
        return numbers

    def _close_range(self) -> None:
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None

    def _part_seconds(self) -> Mapping[str, float]:
        spent: dict[str, float] = {}
        for (part, start), (_, end) in zip(self._marks, self._marks[1:], strict=False):
            spent[part] = spent.get(part, 0.0) + seconds_between(start, end)
        return spent

    def _step_flops(self, microbatches: Sequence[Any]) -> tuple[int, int]:
        """Model and hardware FLOPs of the step, over all ranks; all batch ranks do the same."""
        useful = computed = 0
        for microbatch in microbatches:
            rows, length = microbatch.tokens.shape
            if length not in self._flops:
                self._flops[length] = model_flops(self._config, sequence_length=length)
            useful += rows * self._flops[length].model
            computed += rows * self._flops[length].hardware
        return useful * self._layout.batch_ranks, computed * self._layout.batch_ranks


def find_total_peak_flops(
    config: RunConfig, *, layout: Layout, device: torch.device
) -> float | None:
    """Peak FLOP/s of all devices of the run together; None if it is unknown. Every rank calls it.

    The value comes from track.peak_tflops or from the table of GPUs. On CPU it is measured: all
    ranks multiply matrices at the same time, so that shared cores are not counted twice, and the
    best of a few time windows is taken.

    Args:
        config: The run.
        layout: The grid; its process groups must exist.
        device: Where the ranks compute.
    """
    name, precision = device_name(device), config.train.precision
    given = config.track.peak_tflops
    if given is not None:
        return given * 1e12 * layout.world_size
    if runs_on_cpu(device):
        peak = _measured_peak(device, DTYPES[precision])
        log.info(
            "the peak for MFU is %.0f GFLOP/s, measured with %s matrix products of all ranks",
            *(peak / 1e9, precision),
        )
        return peak
    known = peak_flops(name, precision)
    if known is None:
        log.warning("no MFU: the peak of %s is unknown; set track.peak_tflops", name)
        return None
    log.info("the peak for MFU is %.0f TFLOP/s (%s, dense %s)", known / 1e12, name, precision)
    return known * layout.world_size


def _measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    measure_product_rate(device, dtype, size=1024, seconds=0.0)  # The first call starts threads.
    # Many cores need larger matrices to keep all of them busy.
    size = 2048 if measure_product_rate(device, dtype, size=1024, seconds=0.0) > 1e12 else 1024
    best = 0.0
    for _ in range(_PEAK_WINDOWS):
        dist.barrier()
        rate = measure_product_rate(device, dtype, size=size, seconds=_PEAK_WINDOW_SECONDS)
        total = torch.tensor(rate, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        best = max(best, float(total))
    return best
