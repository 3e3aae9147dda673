"""In bf16 only products are rounded: sums of gradients and optimizer states are fp32."""

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
    """The gradients of all samples as one microbatch."""
    return _step(1, {}, micro_batch_size=SAMPLES)


@pytest.fixture(scope="module")
def microbatches() -> Steps:
    """The gradients of the samples with one microbatch per sample."""
    return _step(1, {}, micro_batch_size=1)


def _distance(ours: Steps, theirs: Steps) -> float:
    squares = [
        np.square([np.subtract(ours.gradients[name], g), g]).sum(axis=tuple(range(1, g.ndim + 1)))
        for name, g in theirs.gradients.items()
    ]
    difference, total = np.sum(squares, axis=0)
    return float(np.sqrt(difference / total))


def test_32_bf16_microbatches_give_the_gradients_of_one_batch(
    microbatches: Steps, one_batch: Steps
) -> None:
    # Each gradient is rounded once, to 8 bits; if sums were rounded too, the error would exceed
    # the unit of 2⁻⁸.
    assert _distance(microbatches, one_batch) < 2**-8


@pytest.mark.parametrize("zero", [2, 3])
def test_bf16_microbatches_give_the_same_gradients_if_data_ranks_partition_them(
    zero: int, microbatches: Steps, one_batch: Steps
) -> None:
    shared = _step(2, {"zero": zero}, micro_batch_size=1)
    assert _distance(shared, one_batch) < 2**-8
    # The rounding is the same; only the order of the fp32 sums differs.
    assert _distance(shared, microbatches) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    "parallel", [{"zero": 1}, {}, {"zero": 2, "offload_optimizer": True}], ids=str
)
def test_bf16_microbatches_give_the_same_gradients_in_the_other_zero_stages(
    parallel: dict[str, Any], microbatches: Steps
) -> None:
    assert _distance(_step(2, parallel, micro_batch_size=1), microbatches) < 1e-6


@pytest.mark.parametrize(
    "split",
    [
        {"tensor": 2, "sequence": True},
        pytest.param({"pipeline": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_gradients_shared_by_ranks_are_summed_with_an_offloaded_optimizer(
    split: dict[str, Any],
) -> None:
    here = _step(2, {**split, "zero": 1}, micro_batch_size=16)
    offloaded = _step(2, {**split, "zero": 1, "offload_optimizer": True}, micro_batch_size=16)
    assert _distance(offloaded, here) < 1e-6


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp32", marks=pytest.mark.slow)])
def test_two_identical_runs_end_in_the_same_bits(precision: str) -> None:
    config = steps_config(parallel={"zero": 3}, train={"precision": precision})
    first, second = (run_ranks(take_steps, 2, config, steps=2, gather=False)[0] for _ in range(2))
    assert first.bits == second.bits
    assert first.losses == second.losses
