"""The seconds of every rank's forward and backward passes, and which ranks are slow for long.

They are part of the all-reduce that each step makes, so there is no other collective. It gets one
float of 8 bytes for each rank (8 kB for 1,000 ranks, 128 kB for 16,000); a rank contributes its own
seconds, and zero for the others.

Tensor ranks wait for each other in every layer, and pipeline stages in every microbatch, so their
times do not show which of them is slow. Therefore copies of the model are compared, and all ranks
of a slow copy are named. With one copy nothing is compared, nor with ZeRO 2 or 3, where the copies
wait for each other in every pass.
"""

import logging
from collections.abc import Sequence

import torch.distributed as dist

from bigtrain.config.layout import Layout
from bigtrain.engine.engine import Engine
from bigtrain.engine.zero import zero_stage
from bigtrain.health.stragglers import Straggler, StragglerRule
from bigtrain.train.trainer import Trainer

log = logging.getLogger(__name__)


class RankTimes:
    """Sends this rank's seconds with each step; rank 0 keeps the figures. A `StepReducer`."""

    def __init__(self, engine: Engine, layout: Layout, *, node: str) -> None:
        """Gathers the names of all nodes; every rank calls it.

        Args:
            engine: The engine of this rank.
            layout: The grid.
            node: The name of this rank's node.
        """
        self._engine, self._rank = engine, dist.get_rank()
        self._size = layout.world_size
        self._nodes: list[str] = [""] * self._size
        dist.all_gather_object(self._nodes, node)
        self._rule: StragglerRule | None = None
        if self._rank == 0:
            copies = [layout.coordinates(rank).data for rank in range(self._size)]
            self._rule = StragglerRule(copies)
        self.figures: dict[str, float | int] = {}
        """The figures of the newest step, for the sinks of rank 0; empty on other ranks."""
        self._found: list[Straggler] = []

    def contribution(self) -> Sequence[float]:
        """A float for each rank: this rank's seconds, and zero for all others."""
        seconds = [0.0] * self._size
        seconds[self._rank] = self._engine.pass_seconds()
        return seconds

    def receive(self, sums: Sequence[float]) -> None:
        """Receives the seconds of all ranks."""
        if self._rule is None:
            return
        times, found = self._rule.add_step(sums)
        self._found += found
        self.figures = {
            "slowest_rank": times.slowest_rank,
            "slowest_rank_ratio": times.ratio,
            "slowest_rank_seconds": times.seconds,
            "median_rank_seconds": times.median_seconds,
        }

    def pop_stragglers(self) -> list[Straggler]:
        """The ranks that became slow since the last call; on rank 0 only."""
        found, self._found = self._found, []
        return found

    def nodes_of(self, straggler: Straggler) -> str:
        """The names of the nodes of slow ranks, separated by commas."""
        return ", ".join(dict.fromkeys(self._nodes[rank] for rank in straggler.ranks))


def open_rank_times(trainer: Trainer, *, node: str) -> RankTimes | None:
    """Starts to compare the ranks of a trainer; None if its layout does not let it.

    Every rank calls it.
    """
    zero, layout = zero_stage(trainer.config.parallel), trainer.layout
    if layout.data == 1:
        return None
    if zero.reduces_each_backward:
        log.info(
            "slow ranks are not looked for: with parallel.zero=%d ranks wait for each other in "
            "every pass",
            layout.zero,
        )
        return None
    return RankTimes(trainer.engine, layout, node=node)


def render_straggler(straggler: Straggler, *, nodes: str) -> str:
    """One line for the log: which ranks are slow, where, and how slow."""
    first, last = straggler.ranks[0], straggler.ranks[-1]
    many = len(straggler.ranks) > 1
    is_row = last - first + 1 == len(straggler.ranks)
    numbers = f"{first} to {last}" if is_row and many else ", ".join(map(str, straggler.ranks))
    of = ", which hold one copy of the model and wait for each other," if many else ""
    return (
        f"rank{'s' if many else ''} {numbers} on {nodes}{of} {'are' if many else 'is'} slow: "
        f"forward and backward take {straggler.ratio:.2f} times the median of all ranks"
    )
