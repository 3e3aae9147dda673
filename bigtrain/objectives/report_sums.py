"""Sums the reports of all microbatches and ranks, in one all-reduce."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from bigtrain.objectives.objective import Objective, Sizes, SumValues
from bigtrain.parallel.schedule import Report


@dataclass(frozen=True, slots=True)
class ReportSums:
    """Sums over all microbatches and ranks; the same numbers on every rank."""

    objective: Objective
    values: SumValues
    extra: list[float]
    """The sums of the additional numbers of the same all-reduce."""

    def figures(self) -> dict[str, float]:
        """The means to log; ``loss`` is the minimized loss without z-loss."""
        return self.objective.figures(self.values)

    @property
    def tokens(self) -> int:
        """The number of tokens trained on."""
        return self.objective.num_tokens(self.values)

    def __add__(self, other: "ReportSums") -> "ReportSums":
        values = {
            key: [a + b for a, b in zip(numbers, other.values[key], strict=True)]
            for key, numbers in self.values.items()
        }
        extra = [a + b for a, b in zip(self.extra, other.extra, strict=True)]
        return ReportSums(self.objective, values, extra)


def sum_over_ranks(
    reports: Iterable[Report],
    objective: Objective,
    *,
    sizes: Sizes,
    counts: bool,
    device: torch.device,
    extra: Sequence[float] = (),
) -> ReportSums:
    """Sums the reports over all ranks; every rank must call it.

    Args:
        reports: This rank's reports; empty except on the last stage.
        objective: The objective that made the reports.
        sizes: How many numbers each sum of a report holds.
        counts: Whether to add this rank's reports; all tensor ranks have the same reports.
        device: The device of this rank.
        extra: This rank's additional numbers, to be summed in the same all-reduce.
    """
    total = torch.zeros(sum(sizes.values()), dtype=torch.float64, device=device)
    for report in reports:
        total += torch.cat([report[key].reshape(-1) for key in sizes]).double()
    if not counts:
        total.zero_()
    more = torch.tensor(extra, dtype=torch.float64, device=device)
    both = torch.cat([total, more])
    dist.all_reduce(both)
    numbers = both.tolist()
    values, start = {}, 0
    for key, size in sizes.items():
        values[key] = numbers[start : start + size]
        start += size
    return ReportSums(objective, values, numbers[start:])
