"""Measures how fast a node computes and communicates, before training, to find slow nodes.

The figures of a node are compared with those of the others, so only the difference between nodes
matters, and a second of measuring is enough.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist

from bigtrain.environment import Ranks
from bigtrain.parallel.connect import connect_ranks
from bigtrain.parallel.device import (
    measure_product_rate,
    runs_on_cpu,
    synchronize,
)

Part = Literal["node", "pair"]
TIMEOUT = timedelta(seconds=60)
"""Limit for connecting, and for one all-reduce."""
_PRODUCT_SECONDS = 1.0
_ALL_REDUCE_SECONDS = 0.5
_MOST_ALL_REDUCES = 200


@dataclass(frozen=True, slots=True)
class _Sizes:
    dtype: torch.dtype
    matrix: int
    elements: int  # of an all-reduce


_CPU = _Sizes(torch.float32, 512, 2**18)
_GPU = _Sizes(torch.bfloat16, 8192, 2**26)


def measure_rates(part: Part, *, ranks: Ranks, device: torch.device, file: Path) -> None:
    """Measures as one of the ranks that are on one node, or on a pair of nodes.

    The ranks of a node measure ``product``, the FLOP/s of this rank while all ranks compute, and
    ``all_reduce``, in bytes per second; those of a pair only ``all_reduce``. Each figure is written
    into ``file`` (JSON) as soon as it is known, so that it is kept if the next one never comes.

    Raises:
        RendezvousError: The ranks cannot connect to each other.
    """
    sizes = _CPU if runs_on_cpu(device) else _GPU
    rates: dict[str, float] = {}
    connect_ranks(ranks, device, timeout=TIMEOUT)
    if part == "node":
        measure_product_rate(device, sizes.dtype, size=sizes.matrix, seconds=0.0)  # Warm-up.
        dist.barrier()
        rates["product"] = measure_product_rate(
            device, sizes.dtype, size=sizes.matrix, seconds=_PRODUCT_SECONDS
        )
        _write(file, rates)
    if ranks.world_size > 1:
        rates["all_reduce"] = measure_all_reduce_rate(device, elements=sizes.elements)
        _write(file, rates)
    dist.destroy_process_group()


def measure_all_reduce_rate(device: torch.device, *, elements: int) -> float:
    """Measures all-reduces of fp32 tensors over all ranks.

    Returns:
        Bytes that each rank sends per second in a ring all-reduce, ``2 (n - 1) / n`` times the size
        of the tensor for ``n`` ranks ("bus bandwidth" in NVIDIA's nccl-tests). It is the same
        on all ranks.
    """
    values = torch.zeros(elements, dtype=torch.float32, device=device)
    dist.all_reduce(values)  # The first call connects.
    seconds = _time_all_reduces(values, device, count=2) / 2
    # All ranks need the same number of calls.
    count = torch.tensor(_ALL_REDUCE_SECONDS / max(seconds, 1e-6), device=device)
    dist.all_reduce(count, op=dist.ReduceOp.MIN)
    calls = min(max(int(count), 1), _MOST_ALL_REDUCES)
    total = torch.tensor(_time_all_reduces(values, device, count=calls), device=device)
    dist.all_reduce(total, op=dist.ReduceOp.MAX)
    size, world = values.numel() * values.element_size(), dist.get_world_size()
    return calls * size * 2 * (world - 1) / world / float(total)


def _time_all_reduces(values: torch.Tensor, device: torch.device, *, count: int) -> float:
    synchronize(device)
    started = time.perf_counter()
    for _ in range(count):
        dist.all_reduce(values)
    synchronize(device)
    return time.perf_counter() - started


def _write(file: Path, rates: Mapping[str, float]) -> None:
    # The supervisor reads the file after this process has ended.
    file.write_text(json.dumps(rates), encoding="utf-8")
