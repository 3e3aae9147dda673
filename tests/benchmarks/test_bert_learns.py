"""BERT learns both of its objectives on the demo corpus, in minutes on two cores."""

import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from rich.console import Console

from bigtrain.track.metrics_file import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

LENGTH = 64
OVERRIDES = [
    "parallel.tensor=1",
    f"data.sequence_length={LENGTH}",
    f"model.max_sequence_length={LENGTH}",
    "model.hidden_size=128",
    # Wide heads help to classify pairs, by finding the same token in the other text.
    "model.num_heads=2",
    "optim.learning_rate=1.5e-3",
    "optim.beta2=0.98",
    "optim.warmup_steps=300",
    "train.steps=4800",
    "train.global_batch_size=32",
    "train.micro_batch_size=16",
    "validation.every=1200",
    "validation.samples=2048",
    "checkpoint.every=4800",
]


def _bigtrain(folder: Path, *words: str) -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "bigtrain.cli", *words]
    subprocess.run(command, cwd=folder, env=environment, check=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the demo corpus, split into sentences, and a table of pairs."""
    folder = tmp_path_factory.mktemp("bert")
    library = sysconfig.get_paths()["stdlib"]
    text = [library, "--glob", "**/*.py", "--exclude", "*/site-packages/*"]
    _bigtrain(folder, "data", "tokenizer", *text, "--vocab-size", "4096", "--out", "stdlib.model")
    options = ["--tokenizer", "stdlib.model", "--validation-percent", "3", "--sentences"]
    _bigtrain(folder, "data", "shard", *text, *options, "--out", "corpora/stdlib")
    for split in ("train", "validation"):
        corpus = f"corpora/stdlib/{split}"
        plan = ["--mode", "pairs", "--sequence-length", str(LENGTH), "--copies", "12"]
        _bigtrain(folder, "data", "samples", corpus, *plan)
    return folder


def test_masked_tokens_and_sentence_pairs_are_both_learned(folder: Path) -> None:
    started = time.monotonic()
    _bigtrain(
        folder, "launch", "configs/bert/tiny.yaml", "--processes", "2", "name=bert", *OVERRIDES
    )
    minutes = (time.monotonic() - started) / 60
    lines = read_metrics(folder / "runs/bert/metrics.jsonl", "validation")
    for line in lines:
        Console().print(
            f"step {line['step']}: {line['mlm_accuracy']:.3f} of masked tokens right "
            f"({line['commonest_accuracy']:.3f} are the commonest), "
            f"{line['sentence_accuracy']:.3f} of pairs classified right"
        )
    Console().print(f"{minutes:.1f} minutes")
    last = lines[-1]
    assert last["mlm_accuracy"] >= last["commonest_accuracy"] + 0.10
    assert last["sentence_accuracy"] >= 0.75
    assert minutes < 15
