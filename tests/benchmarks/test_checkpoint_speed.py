"""Time and memory of checkpoints of a 124M-parameter GPT-2 on 2 ranks. Run on an idle machine, -s.

All contenders save the same 1.5 GB of fp32 values, in turn; ratios are medians over rounds.
DeepSpeed writes its weights twice, and does not wait for the disk. bigtrain and DCP
(torch.distributed.checkpoint) wait for the disk.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from tests.benchmarks.checkpoint_ranks import (
    LAYOUTS,
    SAVED_IN,
    Seconds,
    load,
    measure_memory,
    save_in_turn,
    save_once,
)
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow

ROUNDS, LOADS = 5, 3
GIGABYTES = 1.49


@pytest.mark.timeout(900)
def test_a_save_stalls_for_under_an_eighth_of_its_time_and_is_the_fastest(
    tmp_path: Path,
) -> None:
    first, *rounds = _slowest(run_ranks(save_in_turn, 2, tmp_path, ROUNDS, timeout=800))
    ours = [each["ours: whole"] for each in rounds]
    table = Table("", "s", "spread", "of ours", "stall, s", "of its synchronous save", "cost, s")
    for name in sorted({key.split(":")[0] for key in first}):
        seconds = [each.get(f"{name}: durable", each[f"{name}: whole"]) for each in rounds]
        row = [
            f"{statistics.median(seconds):.2f}",
            f"{min(seconds):.2f} to {max(seconds):.2f}",
            f"{_median_ratio(seconds, ours):.2f}",
        ]
        if f"{name}: stall" in first:
            row += [
                f"{statistics.median(each[f'{name}: stall'] for each in rounds):.3f}",
                f"{_stall(name, rounds):.3f}",
                f"{statistics.median(each[f'{name}: cost'] for each in rounds):.2f}",
            ]
        table.add_row(name, *row)
    table.caption = (
        f"{GIGABYTES} GB, durable; DeepSpeed without its fsync "
        f"{statistics.median(each['DeepSpeed: whole'] for each in rounds):.2f} s; the first save "
        f"stalls {first['ours, asynchronous: stall']:.3f} s, DCP's "
        f"{first['DCP, asynchronous: stall']:.3f} s; cost: what steps took longer, in all"
    )
    Console(width=120).print(table)
    assert _stall("ours, asynchronous", rounds) <= 1 / 8
    assert _median_ratio(ours, [each["DCP: whole"] for each in rounds]) <= 1
    assert _median_ratio(ours, [each["DeepSpeed: whole"] for each in rounds]) < 1


@pytest.mark.timeout(900)
def test_loading_in_another_layout_takes_at_most_half_as_long_again(tmp_path: Path) -> None:
    run_ranks(save_once, 2, tmp_path, timeout=300)
    checkpoint = tmp_path / "step-00000001"
    found: dict[str, list[Seconds]] = {layout: [] for layout in LAYOUTS}
    for _ in range(2):
        for layout, times in found.items():
            times += _slowest(run_ranks(load, 2, layout, checkpoint, LOADS, timeout=300))[1:]
    kinds = list(found[SAVED_IN][0])
    table = Table(f"saved in {SAVED_IN}, loaded in", *(f"{kind}, s" for kind in kinds))
    for layout, times in found.items():
        columns = (
            (_median(times, kind), _median(times, kind) / _median(found[SAVED_IN], kind))
            for kind in kinds
        )
        table.add_row(layout, *(f"{seconds:.2f} ({ratio:.2f})" for seconds, ratio in columns))
    Console(width=120).print(table)
    for layout in LAYOUTS:
        for kind in ("warm", "cold"):
            assert _median(found[layout], kind) <= 1.5 * _median(found[SAVED_IN], kind)


@pytest.mark.timeout(600)
def test_a_save_needs_memory_for_one_copy_and_a_synchronous_save_needs_almost_none(
    tmp_path: Path,
) -> None:
    added = _worst(run_ranks(measure_memory, 2, tmp_path, timeout=300))
    Console(width=120).print(
        *(f"{name} save: {copies:.3f} copies of the local state" for name, copies in added.items()),
        sep="\n",
    )
    assert added["first asynchronous"] <= 1.05
    assert added["synchronous"] < 0.1


def _slowest(ranks: Sequence[list[Seconds]]) -> list[Seconds]:
    return [_worst(of_round) for of_round in zip(*ranks, strict=True)]


def _worst(ranks: Sequence[Seconds]) -> Seconds:
    """The largest value of each figure over the ranks."""
    return {name: max(rank[name] for rank in ranks) for name in ranks[0]}


def _stall(name: str, rounds: Sequence[Seconds]) -> float:
    """Stall of an asynchronous save relative to a synchronous save of the same contender."""
    waits = name.split(",")[0]
    stalls = [each[f"{name}: stall"] for each in rounds]
    return _median_ratio(stalls, [each[f"{waits}: whole"] for each in rounds])


def _median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def _median(times: Sequence[Seconds], kind: str) -> float:
    return statistics.median(each[kind] for each in times)
