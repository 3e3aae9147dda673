"""Corpora, sample tables, runs and checkpoints of earlier versions stay readable."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from bigtrain import cli
from bigtrain.config import load_run_config
from bigtrain.track.metrics_file import read_metrics
from tests.distributed.test_export import export
from tests.fixtures.write_fixture import FOLDER, LAST_STEP, SAVED_STEP
from tests.ranks import run_ranks
from tests.runs import train_rank

FIXTURES = ["written_by_0_1"]
SPLITS = ["train", "validation"]


@pytest.fixture(params=FIXTURES)
def written(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of a fixture as the working folder, because its paths are relative."""
    folder = tmp_path / "written"
    shutil.copytree(FOLDER / request.param, folder)
    monkeypatch.chdir(folder)
    return folder


def _bigtrain(monkeypatch: pytest.MonkeyPatch, capsys, *words: str) -> str:
    """Runs a command that must succeed; returns its output."""
    monkeypatch.setattr(sys, "argv", ["bigtrain", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    output, errors = capsys.readouterr()
    assert not end.value.code, errors
    return output


@pytest.mark.parametrize("split", SPLITS)
def test_corpora_and_sample_tables_are_verified_and_shown(
    split: str, written: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    corpus = f"corpus/{split}"
    _bigtrain(monkeypatch, capsys, "data", "verify", corpus, "--level", "full")
    shown = json.loads(_bigtrain(monkeypatch, capsys, "data", "inspect", corpus, "--json"))
    assert shown["documents"][0]["text"].endswith(".")
    assert len(shown["fingerprint"]) == 64
    for table in ("bestfit-16", "pairs-16"):  # `verify` reads all tables.
        assert (written / corpus / "samples" / table).is_dir()


@pytest.mark.parametrize("name", ["gpt", "bert"])
def test_checkpoints_are_verified_and_described(
    name: str, written: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    _bigtrain(monkeypatch, capsys, "checkpoint", "verify", name)
    described = _bigtrain(monkeypatch, capsys, "checkpoint", "info", name, "--json")
    assert json.loads(described)["step"] == SAVED_STEP
    listed = _bigtrain(monkeypatch, capsys, "checkpoint", "list", name, "--json")
    assert [entry["step"] for entry in json.loads(listed)] == [SAVED_STEP]


@pytest.mark.parametrize("name", ["gpt", "bert"])
def test_runs_continue_with_the_losses_of_the_earlier_version(name: str, written: Path) -> None:
    config = load_run_config([f"{name}/config.yaml", f"train.steps={LAST_STEP}"])
    (outcome,) = run_ranks(train_rank, 1, config)
    assert (outcome.state, outcome.step) == ("finished", LAST_STEP)
    lines = read_metrics(written / name / "metrics.jsonl", "train")
    assert [line["step"] for line in lines] == [*range(1, LAST_STEP + 1)]
    losses = [line["loss"] for line in lines[SAVED_STEP:]]
    expected = json.loads((written / "expected.json").read_text())[name]
    # Another processor may add in another order.
    assert losses == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["gpt", "bert"])
def test_checkpoints_are_exported(name: str, written: Path) -> None:
    (exported,) = run_ranks(export, 1, written / name, written / "exported")
    assert exported.logits.largest < 1e-4
    assert (written / "exported" / "model.safetensors").is_file()
