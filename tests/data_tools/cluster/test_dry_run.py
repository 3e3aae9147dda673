"""`--dry-run` shows exactly the scripts that would be submitted, and writes nothing."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_tools.cli import app
from tests.data_tools.cleaning.documents import random_prose, write_json_lines
from tests.data_tools.small_texts import tree_bytes

GOLDEN = Path(__file__).parent / "golden"
PROFILE = """\
partition: cpu
account: lab
time: "2:00:00"
gpus_per_node: 8
cpus_per_rank: 4
modules: [python/3.11]
environment: {HF_HOME: /shared/hf cache}
prolog: [ulimit -n 4096]
python: /env/bin/python
"""


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception:
        raise result.exception
    return result.stdout


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cluster.yaml").write_text(PROFILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")  # There is no sbatch, and none is needed.
    return tmp_path


def check_golden(name: str, text: str, folder: Path) -> None:
    assert text.replace(str(folder), "/home/me") == (GOLDEN / name).read_text()


def test_the_scripts_of_a_sharding_job(folder, texts, tokenizer):
    (folder / "it's text").symlink_to(texts)
    (folder / "tokenizer.model").symlink_to(tokenizer.path)
    before = tree_bytes(folder)
    options = ["--task-mb=0.002", "--validation-percent=20", "--exclude=*/a b/*", "--shuffle"]
    cluster = ["--cluster=cluster.yaml", "--cluster=qos=low", "--tasks=3", "--memory=16G"]
    words = ["it's text", "--tokenizer=tokenizer.model", "--out=corpora/mine", *options]
    check_golden("shard.txt", run("shard", *words, *cluster, "--dry-run"), folder)
    assert tree_bytes(folder) == before


def test_the_scripts_of_a_cleaning_job(folder):
    import random

    rng = random.Random(0)
    write_json_lines(folder / "pages.jsonl", [{"text": random_prose(rng)} for _ in range(9)])
    (folder / "recipe.yaml").write_text("inputs: [pages.jsonl]\nout: cleaned\ntask_mb: 0.003\n")
    before = tree_bytes(folder)
    text = run("clean", "recipe.yaml", "--cluster=cluster.yaml", "--tasks=2", "--dry-run")
    check_golden("clean.txt", text, folder)
    assert tree_bytes(folder) == before


def test_only_parts_with_missing_tars_are_in_the_array(folder, texts, tokenizer):
    words = ["shard", texts, f"--tokenizer={tokenizer.path}", "--out=corpus", "--task-mb=0.001"]
    run(*words, "--task=0/4")
    run(*words, "--task=2/4")
    cluster = ["--cluster=cluster.yaml", "--dry-run"]
    assert "#SBATCH --array=1,3\n" in run(*words, *cluster, "--tasks=4")
    run(*words, "--task=1/4")
    run(*words, "--task=3/4")
    shown = run(*words, *cluster, "--tasks=4")
    assert "--array" not in shown
    assert "data seal" in shown
    run("seal", "corpus")
    assert "tasks are done already; nothing to submit" in run(*words, *cluster, "--tasks=4")


def test_more_parts_than_tasks_are_not_submitted(folder, texts, tokenizer):
    words = ["shard", texts, f"--tokenizer={tokenizer.path}", "--out=corpus", "--task-mb=1"]
    shown = run(*words, "--cluster=cluster.yaml", "--tasks=64", "--dry-run")
    assert "#SBATCH --array=0\n" in shown
    assert '--task "$SLURM_ARRAY_TASK_ID/1"' in shown


def test_workers_of_the_command_or_the_recipe_give_the_cores_of_a_part(folder, texts, tokenizer):
    words = ["shard", texts, f"--tokenizer={tokenizer.path}", "--out=corpus", "--workers=7"]
    shown = run(*words, "--cluster=cluster.yaml", "--tasks=2", "--dry-run")
    assert "#SBATCH --cpus-per-task=7\n" in shown
    assert " --workers=7 " in shown
    (folder / "recipe.yaml").write_text("inputs: [cluster.yaml]\nglob: '*'\nout: c\nworkers: 6\n")
    shown = run("clean", "recipe.yaml", "--cluster=cluster.yaml", "--tasks=2", "--dry-run")
    assert shown.count("#SBATCH --cpus-per-task=6\n") == 2
