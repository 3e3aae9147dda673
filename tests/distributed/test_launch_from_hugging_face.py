"""`checkpoint.load` of a Hugging Face folder: launch imports it once, and ranks start from it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bigtrain.checkpoint.reading import CheckpointReader
from bigtrain.checkpoint.schema import WEIGHT
from bigtrain.checkpoint.storage_folder import open_folder
from tests.distributed.hugging_face_folders import change_config, save_random, tensors_of
from tests.ranks import run_ranks
from tests.runs import tiny_config

MODEL = {
    "num_kv_heads": 2,
    "ffn_hidden_size": 48,
    "positions": "rope",
    "norm": "rmsnorm",
    "activation": "swiglu",
    "biases": False,
    "norm_epsilon": 1e-6,
}


@pytest.fixture
def folder(corpus: Path, tmp_path: Path) -> Path:
    """A random Llama as a Hugging Face folder."""
    place = tmp_path / "llama"
    run_ranks(save_random, 1, "llama tied", place, tokenizer=corpus.parent / "tokenizer.model")
    return place


def launch(config: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs ``bigtrain launch``."""
    return subprocess.run(
        [sys.executable, "-m", "bigtrain.cli", "launch", str(config), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture
def config(folder: Path, corpus: Path, tmp_path: Path) -> Path:
    """A run of two tensor ranks that starts from the folder."""
    run = tiny_config(
        corpus,
        tmp_path / "runs",
        model=MODEL,
        train={"steps": 2},
        optim={"learning_rate": 1e-6, "warmup_steps": 0, "schedule": "constant"},
        parallel={"tensor": 2, "device": "cpu"},
        track={"wandb": "off"},
    )
    values = run.model_dump(mode="json")
    values["checkpoint"]["load"] = str(folder)
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(values))
    return file


def _starts(run: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (run / "attempts.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == "start"]


@pytest.mark.slow
def test_a_run_starts_from_a_hugging_face_folder(
    folder: Path, config: Path, tmp_path: Path
) -> None:
    done = launch(config)
    assert done.returncode == 0, done.stderr
    assert "parameters of a LlamaForCausalLM; all tensors equal" in done.stdout
    run = tmp_path / "runs/tiny"
    [start] = _starts(run)
    assert start["step"] == 0 and Path(start["checkpoint"]) == run / "imported"
    reader = CheckpointReader(open_folder(run / "checkpoints/step-00000002"))
    embedding = reader.read_tensor(WEIGHT, "embedding.word_embeddings.weight")[:500]
    theirs = tensors_of(folder)["model.embed_tokens.weight"]
    assert 0 < np.abs(embedding - theirs).max() < 1e-5
    # It resumes from its own checkpoints, and imports nothing again.
    written = (run / "imported/COMMIT.json").stat().st_mtime_ns
    again = launch(config, "train.steps=3", "--accept-change", "train.steps")
    assert again.returncode == 0, again.stderr
    assert "LlamaForCausalLM" not in again.stdout
    assert (run / "imported/COMMIT.json").stat().st_mtime_ns == written
    assert _starts(run)[1]["step"] == 2


@pytest.mark.slow
def test_another_model_is_refused_before_ranks_start_and_may_be_accepted(
    config: Path, tmp_path: Path
) -> None:
    refused = launch(config, "model.rope_theta=500000.0")
    assert refused.returncode == 2
    message = refused.stderr.strip().splitlines()[-1]
    assert "this model computes something else: model.rope_theta is 500000" in message
    assert "--accept-change model.rope_theta" in message
    run = tmp_path / "runs/tiny"
    assert [path.name for path in run.iterdir()] == ["imported"]
    words = ("model.rope_theta=500000.0", "--accept-change", "model.rope_theta")
    accepted = launch(config, *words)
    assert accepted.returncode == 0, accepted.stderr
    assert "LlamaForCausalLM" not in accepted.stdout, "the import of before is used"
    assert _starts(run)[0]["step"] == 0


def test_a_folder_that_cannot_be_imported_leaves_no_run(
    folder: Path, config: Path, tmp_path: Path
) -> None:
    change_config(folder, hidden_act="relu")
    done = launch(config)
    assert done.returncode == 2
    assert "hidden_act=relu; bigtrain's model has silu" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_an_import_replaces_nothing_but_an_earlier_import(config: Path, tmp_path: Path) -> None:
    own = tmp_path / "runs/tiny/imported/notes.txt"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    done = launch(config)
    assert done.returncode == 2
    assert "it is not an earlier import; move it away" in done.stderr
    assert own.read_text() == "mine"


def test_ranks_without_launch_name_the_command_that_imports(config: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bigtrain.cli", "train", str(config), "parallel.tensor=1"],
        env={
            **os.environ,
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "0",
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 2
    assert "make a checkpoint of it with `bigtrain import-hf" in done.stderr
