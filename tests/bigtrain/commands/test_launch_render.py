"""`bigtrain launch --render kubernetes` prints and starts nothing; other options are refused."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TINY = ("configs/gpt/tiny.yaml", "parallel.device=cpu")


def _launch(folder: Path, *words: str) -> tuple[int, str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-m", "bigtrain.cli", "launch", *TINY, f"runs_dir={folder}/runs", *words],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr.splitlines()


def test_the_objects_are_printed_and_nothing_is_written(tmp_path: Path) -> None:
    code, text, errors = _launch(
        tmp_path,
        *("--render", "kubernetes", "--nodes", "2", "--image", "mine:1", "runs_dir=runs"),
        *("--accept-change", "train.steps"),
    )
    assert (code, errors) == (0, [])
    job = [*yaml.safe_load_all(text)][-1]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "mine:1"
    assert container["args"][-1] == "--accept-change=train.steps"
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--render", "kubernetes"), "needs the number of pods: give --nodes N"),
        (("--render", "slurm", "--nodes", "2"), "'slurm' is not"),
        (("--render", "kubernetes", "--nodes", "2", "--cluster", "x"), "leave --cluster out"),
        (("--render", "kubernetes", "--nodes", "2", "--dry-run"), "leave --dry-run out"),
        (("--image", "mine:1"), "are for --render kubernetes"),
        (("--render", "kubernetes", "--nodes", "2"), "runs is not in the pods"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(words, line: str, tmp_path: Path) -> None:
    code, text, errors = _launch(tmp_path, *words)
    assert (code, text, len(errors)) == (2, "", 1)
    assert line in errors[0]
