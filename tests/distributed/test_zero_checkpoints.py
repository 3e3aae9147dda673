"""Every layout loads what any other saved, and saves it again, without changing a bit of it."""

from pathlib import Path
from typing import Any

import pytest

from tests.distributed.steps import save_after_steps, steps_config
from tests.distributed.test_checkpoints import ALL_KINDS, load_and_save_again
from tests.ranks import run_ranks
from tests.runs import hash_tensors

Layout = tuple[int, dict[str, Any], str]

ROUNDS: dict[str, list[Layout]] = {
    "fp32": [
        (2, {"zero": 3}, "fp32"),
        (2, {"pipeline": 2, "virtual_pipeline": 2}, "fp32"),
        (2, {"zero": 2}, "fp32"),
        (4, {"pipeline": 2, "virtual_pipeline": 2, "zero": 3}, "fp32"),
        (2, {"tensor": 2, "sequence": True, "zero": 3}, "fp32"),
    ],
    "bf16": [
        (2, {"zero": 3}, "bf16"),
        (2, {"tensor": 2, "sequence": True}, "bf16"),
        (2, {"zero": 2}, "bf16"),
        (2, {"zero": 1}, "bf16"),
        (3, {"pipeline": 3, "first_stage_layers": 1, "last_stage_layers": 1, "zero": 2}, "bf16"),
    ],
    "offloaded": [
        (2, {"zero": 3, "offload_optimizer": True}, "bf16"),
        (2, {"zero": 2, "offload_optimizer": True}, "fp32"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("layouts", ROUNDS.values(), ids=ROUNDS.keys())
def test_a_checkpoint_comes_back_unchanged_from_a_round_of_layouts(
    layouts: list[Layout], tmp_path: Path
) -> None:
    _go_round(layouts, tmp_path)


def test_zero_3_and_an_interleaved_pipeline_hand_each_other_every_bit(tmp_path: Path) -> None:
    _go_round([(4, {"pipeline": 2, "virtual_pipeline": 2, "zero": 3}, "fp32")], tmp_path)


def _go_round(layouts: list[Layout], folder: Path) -> None:
    world_size, config = _config(layouts[0])
    run_ranks(save_after_steps, world_size, config, folder / "0")
    first = hash_tensors(folder / "0" / "step-00000002", ALL_KINDS)
    assert len(first) == 3 * 52
    for number, layout in enumerate([*layouts[1:], (1, {}, "fp32")], start=1):
        world_size, config = _config(layout)
        saved = folder / str(number - 1) / "step-00000002"
        run_ranks(load_and_save_again, world_size, config, saved, folder / str(number))
        again = hash_tensors(folder / str(number) / "step-00000002", ALL_KINDS)
        assert again == first, layout


def _config(layout: Layout) -> tuple[int, Any]:
    world_size, parallel, precision = layout
    return world_size, steps_config(parallel=parallel, train={"precision": precision})
