"""The command `bigtrain parity`: what it refuses, what it prints, and its exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bigtrain.config.config_files import render_config
from tests.runs import tiny_config

REPOSITORY = Path(__file__).resolve().parents[2]
INJECT_IN_RANKS = """\
import os, sys
if "parity-rank" in sys.orig_argv:
    os.environ["DS_ACCELERATOR"] = "cpu"
    from tests.distributed.parity_ranks import {fault}
    {fault}()
"""


def _parity(folder: Path, *words: str, fault: str | None = None) -> subprocess.CompletedProcess:
    """Runs the command in ``folder``; a fault is injected only into its ranks."""
    path = [str(REPOSITORY)]
    if fault is not None:
        (folder / "sitecustomize.py").write_text(INJECT_IN_RANKS.format(fault=fault))
        path.insert(0, str(folder))
    return subprocess.run(
        [sys.executable, "-m", "bigtrain.cli", "parity", *words],
        cwd=folder,
        env={
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": os.pathsep.join(path),
            "TMPDIR": str(folder),
        },
        capture_output=True,
        text=True,
        timeout=250,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no corpus folder at corpora/stdlib/train"),
        (("--layout", "tensors=2"), "layout 'tensors=2': tensors=2 is not one of tensor"),
        (("--steps", "900"), "--steps=900 is more than train.steps=800; lower it"),
        (("--tolerances", "loss"), "tolerances: loss is not one of loss, grad_norm"),
    ],
)
def test_impossible_input_is_refused_before_any_rank_starts(
    words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = _parity(tmp_path, "configs/gpt/tiny.yaml", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stdout == ""
    assert not list(tmp_path.iterdir())


def _write_config(corpus: Path, folder: Path) -> Path:
    config = tiny_config(corpus, folder / "runs", train={"steps": 10})
    (folder / "run.yaml").write_text(render_config(config))
    return folder / "run.yaml"


@pytest.mark.slow
def test_the_command_prints_a_table_and_leaves_no_files(corpus: Path, tmp_path: Path) -> None:
    asked = ("--layout", "tensor=2", "--layout", "tensor=3", "--steps", "2")
    done = _parity(tmp_path, str(_write_config(corpus, tmp_path)), *asked)
    assert done.returncode == 0, done.stderr
    header, tensor, refused, note = done.stdout.splitlines()
    assert header.split() == ["layout", "ranks", "loss", "grad", "norm", "gradients", "parameters"]
    assert tensor.split()[0] == "tensor=2" and tensor.split()[-1] == "same"
    assert refused.split()[0] == "tensor=3" and refused.split()[-1] == "refused"
    assert "does not divide model.num_heads=4" in note
    assert done.stderr.splitlines() == [
        "one process, which 2 layouts are compared with",
        "layout 1 of 2: tensor=2",
        "layout 2 of 2: tensor=3",
    ]
    assert not list(tmp_path.glob("bigtrain-parity-*"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_faulty_layout_gives_exit_code_1_and_names_the_tensor(
    corpus: Path, tmp_path: Path
) -> None:
    done = _parity(
        tmp_path,
        str(_write_config(corpus, tmp_path)),
        *("--layout", "data=2", "--layout", "pipeline=2", "--steps", "2"),
        fault="skip_tied_gradient_sum",
    )
    assert done.returncode == 1, done.stderr
    _, data, pipeline, note = done.stdout.splitlines()
    assert data.split()[-1] == "same"
    assert pipeline.split()[-1] == "DIFFERS"
    assert note.startswith(
        "pipeline=2: first tensor to differ: embedding.word_embeddings.weight; look at what "
        "computes its first-step gradient: "
    )


@pytest.mark.slow
def test_a_crashed_layout_does_not_end_the_other_layouts(corpus: Path, tmp_path: Path) -> None:
    done = _parity(
        tmp_path,
        str(_write_config(corpus, tmp_path)),
        *("--layout", "data=2", "--steps", "1"),
        fault="crash_on_rank_1",
    )
    assert done.returncode == 1
    assert "data=2: FAILED: KeyError: 'planted'" in done.stdout
    kept = next(
        line for line in done.stderr.splitlines() if line.startswith("logs of the failed layouts")
    )
    folder = Path(kept.split(": ")[1])
    assert (folder / "1" / "rank-1.log").is_file()
    assert not list(folder.rglob("*.bin"))
