"""`checkpoint diff` compares checkpoints of any layouts bit by bit."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from bigtrain.commands.checkpoint.diff import measure_difference
from tests.bigtrain.commands.checkpoint.conftest import Command
from tests.bigtrain.commands.checkpoint.damage import (
    Tensors,
    change_json,
    flip_bit,
    save_in_one_piece,
)

NORM = "decoder.final_layernorm.weight"


@pytest.fixture
def pair(run: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint and a copy of it."""
    a, b = run / "checkpoints" / "step-00000006", tmp_path / "b"
    shutil.copytree(a, b)
    return a, b


def test_checkpoints_of_two_layouts_do_not_differ(
    pair: tuple[Path, Path], command: Command
) -> None:
    save_in_one_piece(pair[1])
    assert len([*pair[1].glob("rank-*")]) == 1
    exit_code, lines = command("diff", *pair)
    assert exit_code == 0
    assert lines[:2] == [f"A: {pair[0]}", f"B: {pair[1]}"]
    assert [line.split() for line in lines[3:6]] == [
        ["weight", "28", "of", "28", "0", "0"],
        ["first_moment", "28", "of", "28", "0", "0"],
        ["second_moment", "28", "of", "28", "0", "0"],
    ]
    assert lines[6:] == ["the same bits"]


def test_differences_are_measured_and_the_largest_is_named(
    pair: tuple[Path, Path], command: Command
) -> None:
    norms = {}

    def change(tensors: Tensors) -> None:
        norms.update({key: float(np.linalg.norm(each)) for key, each in tensors.items()})
        tensors[f"weight/{NORM}"][3] += 4
        tensors["weight/embedding.word_embeddings.weight"][1, 1] += 0.5

    save_in_one_piece(pair[1], change)
    exit_code, lines = command("diff", *pair, "--top", 1)
    assert exit_code == 1
    everything = math.hypot(*(norm for key, norm in norms.items() if key.startswith("weight/")))
    relative = math.hypot(4, 0.5) / everything
    assert lines[3].split() == ["weight", "26", "of", "28", "4", f"{relative:.3g}"]
    assert lines[6].split("  ")[0] == "differ most (2 do)"
    assert lines[7].split() == [f"weight/{NORM}", "4", f"{4 / norms[f'weight/{NORM}']:.3g}"]
    assert lines[8:] == ["not the same bits"]


def test_differences_of_state_config_and_tensor_names_are_shown(
    pair: tuple[Path, Path], command: Command
) -> None:
    def change_tensors(tensors: Tensors) -> None:
        tensors["weight/new"] = tensors.pop(f"weight/{NORM}")
        tensors[f"first_moment/{NORM}"] = np.zeros(5, dtype=np.float32)

    def change_state(state: dict) -> None:
        state.update(step=9, tokenizer_sha256="other")
        state["config"]["optim"].update(learning_rate=0.5)
        state["data_stages"][0].update(first_sample=8)
        del state["config"]["guard"]  # An older version had no such section.

    save_in_one_piece(pair[1], change_tensors)
    change_json(pair[1] / "state.json", change_state)
    exit_code, lines = command("diff", *pair)
    assert exit_code == 1
    shown = lines[2:]
    assert "step: 6 → 9" in shown
    assert any(line.startswith("tokenizer_sha256: ") and line.endswith("→ other") for line in shown)
    assert "data_stages: those of A → those of B" in shown
    assert [line for line in shown if line.startswith("config ")] == [
        "config optim.learning_rate: 0.003 → 0.5"
    ]
    assert f"only in A: weight/{NORM}" in shown
    assert "only in B: weight/new" in shown
    assert f"shape of first_moment/{NORM}: (32,) → (5,)" in shown


def test_a_differing_state_is_shown_with_equal_tensors(
    pair: tuple[Path, Path], command: Command
) -> None:
    change_json(pair[1] / "state.json", lambda state: state.update(samples=1))
    exit_code, lines = command("diff", *pair)
    assert exit_code == 0
    assert "samples: 48 → 1" in lines


def test_a_flipped_bit_ends_the_comparison(pair: tuple[Path, Path], command: Command) -> None:
    flip_bit(pair[1] / "rank-00000.bin", 40)
    exit_code, lines = command("diff", *pair)
    assert exit_code == 2
    assert len(lines) == 1
    assert "fail their checksum" in lines[0]


@pytest.mark.parametrize(
    ("a", "b", "same_bits", "largest", "relative"),
    [
        ([3.0, 4.0], [3.0, 4.0], True, 0.0, 0.0),
        ([3.0, 4.0], [3.0, 4.5], False, 0.5, 0.1),
        ([0.0], [-0.0], False, 0.0, 0.0),
        ([math.nan, 1.0], [math.nan, 1.0], True, 0.0, 0.0),
        ([math.inf, 1.0], [math.inf, 2.0], False, 1.0, 1.0),
        ([1.0], [math.nan], False, math.inf, math.inf),
        ([0.0], [1.0], False, 1.0, math.inf),
        ([], [], True, 0.0, 0.0),
    ],
)
def test_differing_bits_and_differing_values_are_counted(
    a: list[float], b: list[float], same_bits: bool, largest: float, relative: float
) -> None:
    found = measure_difference("weight/x", *(np.array(each, dtype=np.float32) for each in (a, b)))
    assert found.same_bits is same_bits
    assert found.largest == largest
    assert found.relative == pytest.approx(relative)
