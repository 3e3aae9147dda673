"""Checkpoints of less common layouts, bf16 and offloaded optimizers load bit for bit."""

from pathlib import Path

import pytest

from bigtrain.checkpoint.schema import KINDS
from bigtrain.config import RunConfig
from bigtrain.config.layout import ONE_PROCESS
from tests.distributed.steps import load_and_save_again, save_after_steps, steps_config
from tests.ranks import run_ranks
from tests.runs import hash_tensors, in_layout

ZERO_3_INTERLEAVED = "pipeline=2 virtual_pipeline=2 data=2 zero=3"
ROUNDS: dict[str, list[tuple[str, str]]] = {
    "fp32": [
        ("pipeline=2 virtual_pipeline=2", "fp32"),
        (ZERO_3_INTERLEAVED, "fp32"),
        ("tensor=2 sequence=true zero=3", "fp32"),
    ],
    "bf16": [
        ("data=2 zero=3", "bf16"),
        ("tensor=2 sequence=true", "bf16"),
        ("data=2 zero=2", "bf16"),
        ("data=2 zero=1", "bf16"),
        ("pipeline=3 first_stage_layers=1 last_stage_layers=1 zero=2", "bf16"),
    ],
    "offloaded": [
        ("data=2 zero=3 offload_optimizer=true", "bf16"),
        ("data=2 zero=2 offload_optimizer=true", "fp32"),
    ],
}
"""Layouts and precisions."""


@pytest.mark.slow
@pytest.mark.parametrize("layouts", ROUNDS.values(), ids=ROUNDS.keys())
def test_a_checkpoint_is_unchanged_after_loading_and_saving_in_several_layouts(
    layouts: list[tuple[str, str]], tmp_path: Path
) -> None:
    _load_and_save_in_turn(layouts, tmp_path)


def test_a_checkpoint_is_unchanged_in_zero_3_with_an_interleaved_pipeline(tmp_path: Path) -> None:
    _load_and_save_in_turn([(ZERO_3_INTERLEAVED, "fp32")], tmp_path)


def _load_and_save_in_turn(layouts: list[tuple[str, str]], folder: Path) -> None:
    config, world_size = _config(*layouts[0])
    run_ranks(save_after_steps, world_size, config, folder / "0")
    first = hash_tensors(folder / "0" / "step-00000002", KINDS)
    assert len(first) == 3 * 52
    for number, (layout, precision) in enumerate([*layouts[1:], (ONE_PROCESS, "fp32")], start=1):
        config, world_size = _config(layout, precision)
        saved = folder / str(number - 1) / "step-00000002"
        run_ranks(load_and_save_again, world_size, config, saved, folder / str(number))
        again = hash_tensors(folder / str(number) / "step-00000002", KINDS)
        assert again == first, layout


def _config(layout: str, precision: str) -> tuple[RunConfig, int]:
    return in_layout(steps_config(train={"precision": precision}), layout)
