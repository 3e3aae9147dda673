"""`bigtrain data which` prints text or JSON; a run logs the end of each epoch."""

import json
import logging
from dataclasses import asdict
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue

import pytest
from typer.testing import CliRunner

from bigtrain.cli import app
from bigtrain.config import RunConfig, render_config
from bigtrain.runs.documents_of_step import find_samples, render_samples
from data_tools.corpus import open_corpus
from tests.ranks import run_ranks
from tests.runs import tiny_config, train_rank


@pytest.fixture
def run(corpus: Path, tmp_path: Path) -> Path:
    """A run folder before the first step."""
    config = tiny_config(corpus, tmp_path)
    config.run_dir.mkdir(parents=True)
    (config.run_dir / "config.yaml").write_text(render_config(config))
    return config.run_dir


def _which(run: Path, *options: str) -> list[str]:
    result = CliRunner().invoke(app, ["data", "which", "--run", str(run), "--step", "3", *options])
    if result.exception:
        raise result.exception
    return result.output.splitlines()


def test_the_samples_of_a_step_are_shown_with_their_documents(run: Path) -> None:
    shown = _which(run)
    assert shown == list(render_samples(find_samples(run, 3)))
    assert [line.split(":")[0] for line in shown if line.startswith("sample ")] == [
        f"sample {number}" for number in range(16, 24)
    ]


def test_json_output_has_one_object_per_sample(run: Path) -> None:
    printed = [json.loads(line) for line in _which(run, "--json")]
    assert printed == [json.loads(json.dumps(asdict(sample))) for sample in find_samples(run, 3)]
    assert [sample["sample"] for sample in printed] == [*range(16, 24)]
    assert all(sample["documents"][0]["pack"].startswith("000000-") for sample in printed)


def train_and_collect(config: RunConfig) -> list[str]:
    """Trains; returns the logged lines."""
    records: SimpleQueue[logging.LogRecord] = SimpleQueue()
    logging.getLogger().addHandler(QueueHandler(records))
    logging.getLogger("bigtrain").setLevel(logging.INFO)
    train_rank(config)
    return [records.get().getMessage() for _ in range(records.qsize())]


def test_a_run_logs_the_end_of_each_epoch_of_a_corpus(corpus: Path, tmp_path: Path) -> None:
    name = str(corpus / "validation")
    with open_corpus(name) as stream:
        windows = (stream.num_tokens - 1) // 32
    batch = windows * 3 // 5  # The second and the fourth step end an epoch.
    data = {"train": name, "validation": None}
    train = {"steps": 4, "global_batch_size": batch, "micro_batch_size": batch}
    messages = run_ranks(
        train_and_collect, 1, tiny_config(corpus, tmp_path, data=data, train=train)
    )
    assert [message for message in messages[0] if "was read completely" in message] == [
        f"step 2: {name} was read completely; epoch 2 begins",
        f"step 4: {name} was read completely; epoch 3 begins",
    ]
