"""bf16 rounds products and nothing else: sums of gradients, and what is kept, are fp32."""

from typing import Any

import numpy as np
import pytest

from tests.distributed.steps import Steps, steps_config, take_steps
from tests.ranks import run_ranks

SAMPLES = 32


def _step(world_size: int, parallel: dict[str, Any], *, micro_batch_size: int) -> Steps:
    train = {"precision": "bf16", "global_batch_size": SAMPLES}
    train["micro_batch_size"] = micro_batch_size
    config = steps_config(parallel=parallel, train=train, data={"sequence_length": 8})
    return run_ranks(take_steps, world_size, config, steps=1)[0]


@pytest.fixture(scope="module")
def one_batch() -> Steps:
    """The gradients of all samples in one forward pass."""
    return _step(1, {}, micro_batch_size=SAMPLES)


@pytest.fixture(scope="module")
def microbatches() -> Steps:
    """The gradients of the samples, one forward pass for each."""
    return _step(1, {}, micro_batch_size=1)


def _distance(ours: Steps, theirs: Steps) -> float:
    squares = [
        np.square([np.subtract(ours.gradients[name], g), g]).sum(axis=tuple(range(1, g.ndim + 1)))
        for name, g in theirs.gradients.items()
    ]
    apart, whole = np.sum(squares, axis=0)
    return float(np.sqrt(apart / whole))


def test_32_microbatches_in_bf16_are_one_batch(microbatches: Steps, one_batch: Steps) -> None:
    # Each gradient is rounded once, to 8 bits: sums that were rounded too would be off by more
    # than the unit of 2⁻⁸ itself.
    assert _distance(microbatches, one_batch) < 2**-8


@pytest.mark.parametrize("zero", [2, 3])
def test_so_they_are_where_data_ranks_share_their_gradients(
    zero: int, microbatches: Steps, one_batch: Steps
) -> None:
    shared = _step(2, {"zero": zero}, micro_batch_size=1)
    assert _distance(shared, one_batch) < 2**-8
    # The same roundings; only the order of the fp32 sums differs.
    assert _distance(shared, microbatches) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    "parallel", [{"zero": 1}, {}, {"zero": 2, "offload_optimizer": True}], ids=str
)
def test_so_they_are_in_the_other_stages(parallel: dict[str, Any], microbatches: Steps) -> None:
    assert _distance(_step(2, parallel, micro_batch_size=1), microbatches) < 1e-6


@pytest.mark.parametrize(
    "split",
    [
        {"tensor": 2, "sequence": True},
        pytest.param({"pipeline": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_what_ranks_share_is_summed_where_the_optimizer_is_offloaded(split: dict[str, Any]) -> None:
    here = _step(2, {**split, "zero": 1}, micro_batch_size=16)
    offloaded = _step(2, {**split, "zero": 1, "offload_optimizer": True}, micro_batch_size=16)
    assert _distance(offloaded, here) < 1e-6


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp32", marks=pytest.mark.slow)])
def test_two_identical_runs_end_in_the_same_bits(precision: str) -> None:
    config = steps_config(parallel={"zero": 3}, train={"precision": precision})
    first, second = (run_ranks(take_steps, 2, config, steps=2, whole=False)[0] for _ in range(2))
    assert first.bits == second.bits
    assert first.losses == second.losses
