"""Adds up the reports of all microbatches and ranks, in one all-reduce."""

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
    """The additional numbers that were added up in the same all-reduce."""

    def figures(self) -> dict[str, float]:
        """The means that are logged; ``loss`` is what is minimized, without a z-loss."""
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
    """Adds the reports up; every rank calls it.

    Args:
        reports: This rank's; empty except on the last stage.
        objective: What the reports are of.
        sizes: What each report holds.
        counts: Whether this rank's reports count; all tensor ranks have the same reports.
        device: Where the ranks compute.
        extra: Numbers that are added up with them, on every rank.
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
