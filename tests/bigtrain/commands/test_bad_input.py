"""Bad input gives one line and exit code 2; unexpected errors keep their traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def _bigtrain(folder: Path, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "bigtrain.cli", *words],
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report", "nowhere"], "nowhere: not a run folder"),
        (["import-hf", "nowhere", "--out", "out"], "nowhere: no config.json; give a folder with"),
        (
            ["export-hf", "nowhere", "out", "--max-shard-size", "5GiB"],
            "'5GiB' is not a size such as 5GB or 500MB",
        ),
        (["export-hf", "nowhere", "out"], "nowhere: neither a checkpoint nor a run folder"),
        (["generate", "nowhere"], "nowhere: neither a checkpoint nor a run folder"),
        (["launch", "nowhere.yaml"], "nowhere.yaml: no such config file"),
        (["launch", "configs/gpt/tiny.yaml"], "no corpus folder at corpora/stdlib/train"),
        (["train", "configs/gpt/tiny.yaml", "parallel.device=cuda"], "parallel.device=cuda"),
        (["data", "inspect", "nowhere"], "nowhere"),
        (["data", "tokenizer", "nowhere", "--out", "o"], "nowhere"),
        (["data", "shard", "x", "--tokenizer", "nowhere", "--out", "o"], "no tokenizer at nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    words: list[str], message: str, tmp_path: Path
) -> None:
    exit_code, output = _bigtrain(tmp_path, *words)
    assert exit_code == 2, output
    assert output.startswith("bigtrain: ")
    assert message in output
    assert len(output.splitlines()) == 1
    assert not list(tmp_path.rglob("*.json"))


def test_an_unexpected_error_keeps_its_traceback(tmp_path: Path) -> None:
    script = (
        "import sys, bigtrain.config as c, bigtrain.cli as cli\n"
        "def broken(_): raise KeyError('a bug')\n"
        "c.load_run_config = broken\n"
        "sys.argv = ['bigtrain', 'launch', 'x.yaml']\n"
        "cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == "bigtrain: KeyError: 'a bug'"
