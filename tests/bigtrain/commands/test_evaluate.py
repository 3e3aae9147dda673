"""`bigtrain evaluate`: refusals in one line, and the result in the run folder."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bigtrain.cli import main
from data_tools.sharding.shard_corpus import shard_corpus
from data_tools.sharding.shard_options import ShardOptions
from data_tools.tokenizer import train_tokenizer
from tests.fixtures.write_fixture import FOLDER

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run of step 3, `gpt`, of best-fit rows, and its `corpus`."""
    folder = Path(shutil.copytree(FOLDER / "written_by_0_1", tmp_path / "work"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Returns a function that runs the command and returns exit code, output and errors."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bigtrain", "evaluate", *words])
        with pytest.raises(SystemExit) as end:
            main()
        return (int(end.value.code or 0), *capfd.readouterr())

    return call


def _make_without_checkpoint(work: Path) -> None:
    shutil.rmtree(work / "gpt/checkpoints")


def _empty_corpus(work: Path) -> None:
    file = work / "corpus/validation/manifest.json"
    manifest = json.loads(file.read_text())
    manifest["shards"] = []
    manifest["totals"] = dict.fromkeys(manifest["totals"], 0)
    file.write_text(json.dumps(manifest))


def _make_other_corpus(work: Path) -> None:
    text = work / "other.txt"
    text.write_text("other words and more of them " * 40)
    tokenizer = work / "other.model"
    train_tokenizer([text.read_text()], tokenizer, vocab_size=350)
    options = ShardOptions(validation_percent=0)
    shard_corpus([str(text)], tokenizer=tokenizer, out=work / "other", options=options)


def _make_export_without_config(work: Path) -> None:
    (work / "exported").mkdir()
    (work / "exported/model.safetensors").write_bytes(b"")


def _cut_tar(work: Path) -> None:
    tar = work / "corpus/validation/tokens-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-512])


def _remove_table(work: Path) -> None:
    shutil.rmtree(work / "corpus/validation/samples")


VALIDATION = "corpus/validation"


@pytest.mark.parametrize(
    ("prepare", "words", "message"),
    [
        (None, ["nowhere", VALIDATION], "nowhere: neither a checkpoint nor a run folder"),
        (_make_without_checkpoint, ["gpt", VALIDATION], "gpt: neither a checkpoint nor a run"),
        (None, ["gpt", VALIDATION, "--step", "7"], "no checkpoint of step 7; it has steps 3"),
        (None, ["gpt", "nowhere"], "no corpus folder at nowhere"),
        (None, ["gpt"], "nothing to evaluate on; give a corpus, or tasks with --lm-eval"),
        (None, ["gpt", VALIDATION, VALIDATION], "are the same corpus; name it once"),
        (_empty_corpus, ["gpt", VALIDATION], f"{VALIDATION}: the corpus has no tokens"),
        (_make_other_corpus, ["gpt", "other/train"], "other/train: made with tokenizer "),
        (_cut_tar, ["gpt", VALIDATION], "tokens-000000.tar"),
        (_remove_table, ["gpt", VALIDATION], "bigtrain data samples"),
        (None, ["gpt", VALIDATION, "--stride", "4"], "--stride 4 is for windows of the token"),
        (None, ["gpt", VALIDATION, "--length", "64"], "data.sequence_length=64 is more than"),
        (None, ["gpt", VALIDATION, "--layout", "tensor=3"], "parallel.tensor=3 does not divide"),
        (
            None,
            ["gpt", VALIDATION, "--layout", "data=2", "--processes", "2"],
            "--layout gives the number of processes; leave --processes out",
        ),
        (
            None,
            ["bert", VALIDATION, "--processes", "4"],
            "train.global_batch_size=4 is not a multiple of train.micro_batch_size=2 × 4",
        ),
        (_make_export_without_config, ["exported", VALIDATION], "exported: no config.json beside"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    prepare: Callable[[Path], None] | None,
    words: list[str],
    message: str,
    work: Path,
    command: Command,
) -> None:
    if prepare is not None:
        prepare(work)
    exit_code, output, errors = command(*words)
    assert exit_code == 2, errors
    assert not output
    assert len(errors.splitlines()) == 1
    assert errors.startswith("bigtrain: ")
    assert message in errors
    assert not list(work.glob("*/evaluations"))


def test_a_missing_harness_names_the_extra(
    work: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigtrain.evaluate.harness.find_spec", lambda _: None)
    exit_code, _, errors = command("gpt", "--lm-eval", "lambada")
    assert (exit_code, len(errors.splitlines())) == (2, 1)
    assert "pip install 'bigtrain[eval]'" in errors


def test_a_bert_runs_no_tasks_of_the_harness(
    work: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigtrain.commands.evaluation.check_harness", lambda: None)
    exit_code, _, errors = command("bert", "--lm-eval", "lambada")
    assert (exit_code, len(errors.splitlines())) == (2, 1)
    assert "does not predict the next token" in errors


def test_the_result_is_shown_and_written_into_the_run_folder(
    work: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    exit_code, output, errors = command("gpt", VALIDATION, "corpus/train", "--json")
    assert exit_code == 0, errors
    (file,) = (work / "gpt/evaluations").iterdir()
    result = json.loads(output)
    assert result == json.loads(file.read_text())
    assert result["schema"] == "bigtrain-evaluation/1"
    assert file.name.startswith("step-00000003-")
    assert result["model"]["step"] == 3
    assert result["windows"]["packing"] == "bestfit"
    assert [each["corpus"] for each in result["corpora"]] == [VALIDATION, "corpus/train"]
    for each in result["corpora"]:
        # Of each document the first token is not predicted, as in training.
        documents = each["document_ends"]
        assert each["tokens"] == each["corpus_tokens"] - documents > documents > 0
    assert result["total"]["tokens"] == sum(each["tokens"] for each in result["corpora"])
    assert f"{VALIDATION}: " in errors and " samples in " in errors
