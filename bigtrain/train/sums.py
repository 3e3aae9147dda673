"""What the reports of all microbatches and ranks say together, in one small reduction."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from bigtrain.config.model import ModelConfig
from bigtrain.parallel.schedule import Report
from bigtrain.train.forward import (
    HITS,
    LOSS_SUM,
    SENTENCE_COUNT,
    SENTENCE_HITS,
    SENTENCE_LOSS_SUM,
    TARGET_COUNTS,
    TOKENS,
    WEIGHT_SUM,
)

Sizes = Mapping[str, int]
"""How many numbers each part of a report is."""


def sizes_of_reports(model: ModelConfig, *, measure: bool = False) -> Sizes:
    """What ``make_forward_step`` reports of a microbatch."""
    sizes = dict.fromkeys((LOSS_SUM, WEIGHT_SUM), 1)
    if model.kind == "bert":
        sizes |= dict.fromkeys((SENTENCE_LOSS_SUM, SENTENCE_COUNT, TOKENS), 1)
    if model.kind == "bert" and measure:
        sizes |= {HITS: 1, SENTENCE_HITS: 1, TARGET_COUNTS: model.vocab_size}
    return sizes


@dataclass(frozen=True, slots=True)
class Sums:
    """Over all microbatches and ranks; the same numbers on every rank."""

    parts: dict[str, list[float]]
    extra: list[float]

    def figures(self) -> dict[str, float]:
        """The means that people read: losses in nats, accuracies as shares.

        ``loss`` is what is minimized, but for a z-loss: the mean over tokens, to which a BERT adds
        the mean over pairs. ``commonest_accuracy`` is that of always guessing the commonest token.
        """
        tokens = self._mean(LOSS_SUM, WEIGHT_SUM)
        if SENTENCE_COUNT not in self.parts:
            return {"loss": tokens}
        sentences = self._mean(SENTENCE_LOSS_SUM, SENTENCE_COUNT)
        figures = {"loss": tokens + sentences, "mlm_loss": tokens, "sentence_loss": sentences}
        if HITS in self.parts:
            counts = self.parts[TARGET_COUNTS]
            figures["mlm_accuracy"] = self._mean(HITS, WEIGHT_SUM)
            figures["commonest_accuracy"] = max(counts) / max(1.0, sum(counts))
            figures["sentence_accuracy"] = self._mean(SENTENCE_HITS, SENTENCE_COUNT)
        return figures

    @property
    def tokens(self) -> int:
        """Tokens that were learned from: a GPT's targets, all that a BERT reads but padding."""
        [count] = self.parts[TOKENS if TOKENS in self.parts else WEIGHT_SUM]
        return int(count)

    def __add__(self, other: "Sums") -> "Sums":
        parts = {
            key: [a + b for a, b in zip(values, other.parts[key], strict=True)]
            for key, values in self.parts.items()
        }
        return Sums(parts, [a + b for a, b in zip(self.extra, other.extra, strict=True)])

    def _mean(self, total: str, count: str) -> float:
        return self.parts[total][0] / max(1.0, self.parts[count][0])


def sum_over_ranks(
    reports: Iterable[Report],
    *,
    sizes: Sizes,
    counts: bool,
    device: torch.device,
    extra: Sequence[float] = (),
) -> Sums:
    """Adds the reports up; every rank calls it.

    Args:
        reports: This rank's; none but on the last stage.
        sizes: What each report holds.
        counts: Whether this rank's reports count: tensor ranks repeat each other's.
        device: Where the ranks compute.
        extra: Numbers that are added up with them, whatever the rank.
    """
    total = torch.zeros(sum(sizes.values()), dtype=torch.float64, device=device)
    for report in reports:
        total += torch.cat([report[key].reshape(-1) for key in sizes]).double()
    if not counts:
        total.zero_()
    more = torch.tensor(extra, dtype=torch.float64, device=device)
    both = torch.cat([total, more])
    dist.all_reduce(both)
    values = both.tolist()
    parts, start = {}, 0
    for key, size in sizes.items():
        parts[key] = values[start : start + size]
        start += size
    return Sums(parts, values[start:])
