"""On a GPU, a save copies into pinned memory while the next step is computed."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU on this machine"),
]


def _run_rank(shape: str, folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.checkpoint_rank", "cuda", shape, str(folder)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def test_the_copy_holds_the_saved_step_and_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    assert _run_rank("tiny", tmp_path) == {
        "pinned": True,
        "copied": True,
        "updated": True,
        "restored": True,
        "steps": [2, 2],
    }


def test_a_save_of_124_million_parameters_stalls_only_briefly(tmp_path: Path) -> None:
    found = _run_rank("124M", tmp_path)
    for name, seconds in found.items():
        later = statistics.median(seconds[1:])
        Console().print(f"{name}: first {seconds[0]:.4f} s, later {later:.4f} s")
    stall, whole = (statistics.median(found[name][1:]) for name in ("stall", "synchronous"))
    assert stall <= whole / 8
