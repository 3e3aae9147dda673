"""What cannot be submitted is refused in one line, before anything is written."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_tools.cli import app
from tests.data_tools.small_texts import tree_bytes


def refusal_of(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert isinstance(result.exception, ValueError), result.output
    message = str(result.exception)
    assert "\n" not in message
    return message


@pytest.fixture
def words(tmp_path, monkeypatch, texts, tokenizer) -> list[object]:
    (tmp_path / "cluster.yaml").write_text("partition: cpu\n")
    (tmp_path / "hosts.yaml").write_text("scheduler: hosts\nhosts: [a, b]\n")
    monkeypatch.chdir(tmp_path)
    return ["shard", texts, f"--tokenizer={tokenizer.path}", "--out=corpus"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cluster=cluster.yaml"], "--cluster needs the number of parts: give --tasks 64"),
        (["--cluster=cluster.yaml", "--tasks=0"], "give --tasks 64 instead of 0"),
        (["--tasks=4"], "--tasks is for --cluster: add --cluster PROFILE.yaml"),
        (["--memory=4G"], "--memory is for --cluster"),
        (["--dry-run"], "--dry-run is for --cluster"),
        (["--cluster=cluster.yaml", "--tasks=4", "--task=0/4"], "leave out --task"),
        (["--cluster=cluster.yaml", "--tasks=4", "--workers=0"], "workers 0 must be at least 1"),
        (["--cluster=cluster.yaml", "--tasks=4", "--memory=lots"], "--memory 'lots' must be"),
        (["--cluster=gone.yaml", "--tasks=4"], "gone.yaml: no such config file"),
        (["--cluster=cluster.yaml", "--cluster=partitoin=a", "--tasks=4"], "partitoin"),
        (
            ["--cluster=cluster.yaml", "--cluster=scheduler=hosts", "--tasks=4"],
            "scheduler=hosts needs hosts",
        ),
        (
            ["--cluster=hosts.yaml", "--tasks=4"],
            "--cluster submits to SLURM; run the command on each host with --task I/N instead",
        ),
        (
            ["--cluster=cluster.yaml", "--cluster=shared_folder=/shared", "--tasks=4"],
            "is outside shared_folder=/shared: choose an output folder inside",
        ),
    ],
)
def test_options_that_cannot_be(words, options, message):
    before = tree_bytes(Path())
    assert message in refusal_of(*words, *options)
    assert tree_bytes(Path()) == before


def test_a_machine_without_slurm(words, monkeypatch):
    monkeypatch.setenv("PATH", "")
    message = refusal_of(*words, "--cluster=cluster.yaml", "--tasks=4")
    assert "there is no such command here, so SLURM is not installed" in message
    assert not Path("corpus").exists()


def test_standard_input_is_no_text_for_jobs(words):
    words[1] = "-"
    message = refusal_of(*words, "--cluster=cluster.yaml", "--tasks=4", "--dry-run")
    assert "standard input (-) cannot be read by jobs of a cluster: write it to a file" in message


def test_a_folder_of_another_job(words):
    CliRunner().invoke(app, [*map(str, words), "--task=0/2"])
    before = tree_bytes(Path())
    message = refusal_of(*words, "--seed=5", "--cluster=cluster.yaml", "--tasks=4", "--dry-run")
    assert "belongs to a job with other seed (0 → 5)" in message
    assert tree_bytes(Path()) == before


def test_a_recipe_whose_paths_would_not_read_back(words, tmp_path, monkeypatch):
    (tmp_path / "a$b").mkdir()
    monkeypatch.chdir(tmp_path / "a$b")  # The absolute path of the result has a $, too.
    Path("pages.jsonl").write_text('{"text": "x"}\n')
    Path("recipe.yaml").write_text("inputs: [pages.jsonl]\nout: cleaned\n")
    options = ["--cluster=../cluster.yaml", "--tasks=4", "--dry-run"]
    message = refusal_of("clean", "recipe.yaml", *options)
    assert "has a $, or a ~ at its beginning, in its real name: rename it" in message


def test_a_status_without_jobs_says_how_to_submit_some(words):
    assert "no job of a cluster writes here" in refusal_of("status", "corpus")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only=scan"], "--only scan needs --task I/N, such as 0/4"),
        (["--only=seal", "--task=0/2"], "--only seal is one task: leave out --task"),
        (["--only=all"], "--only 'all': give --only scan, duplicates, write or seal"),
        (["--task=0/2"], "--task needs --only: give --only scan"),
        (["--only=scan", "--task=2/2"], "--task 2/2 must be from 0/2 to 1/2"),
        (["--only=seal"], "no cleaning job in cleaned: begin with the same command and --only"),
        (
            ["--only=scan", "--cluster=cluster.yaml", "--tasks=2"],
            "--cluster submits all passes: leave out --only",
        ),
    ],
)
def test_passes_of_a_cleaning_job_that_cannot_be(words, options, message):
    Path("recipe.yaml").write_text("inputs: [cluster.yaml]\nglob: '*'\nout: cleaned\n")
    assert message in refusal_of("clean", "recipe.yaml", *options)
    assert not Path("cleaned").exists()
