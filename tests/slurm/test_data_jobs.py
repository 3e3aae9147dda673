"""`bigtrain data shard` and `clean` as arrays: failed parts run again, and no byte differs."""

import json
import random
import shlex
import signal
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import psutil
import pytest

from data_tools.tokenizer import train_tokenizer
from tests.data_tools.cleaning.documents import change_words, random_prose, write_json_lines
from tests.data_tools.small_texts import tree_bytes, write_texts
from tests.slurm.cluster import SlurmCluster
from tests.slurm.processes import command_of, wait_until

OWN = ("tasks/cluster/", ".tasks/cluster/")
"""Scripts, logs and ids: the only files that a job of one machine does not have."""


def bigtrain(cluster: SlurmCluster, *words: object, code: int = 0, folder: Path) -> str:
    command = [sys.executable, "-m", "bigtrain.cli", "data", *map(str, words)]
    done = subprocess.run(
        command, env=cluster.environment, cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def result_bytes(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree_bytes(out).items() if not name.startswith(OWN)}


def jobs_of(folder: Path) -> dict[str, dict]:
    record = json.loads((folder / "cluster" / "jobs.json").read_text())
    return {job["name"]: job for job in record["jobs"]}


def log_of(folder: Path, name: str, job: str) -> str:
    return (folder / "cluster" / f"{name}-{job}.log").read_text()


def write_blocking_tar(folder: Path) -> str:
    """A tar that can be read only when the file `go` exists: the part that reads it waits."""
    with tarfile.open(folder / "last.tar", "w") as tar:
        member = tarfile.TarInfo("0001.txt")
        member.size = 7
        tar.addfile(member, BytesIO(b"The end"))
    go, file = shlex.quote(str(folder / "go")), shlex.quote(str(folder / "last.tar"))
    return f"pipe:while [ ! -e {go} ]; do sleep 0.1; done; cat {file}"


def part_processes(cluster: SlurmCluster, part: str) -> list[psutil.Process]:
    return [p for p in cluster.processes() if f"--task {part}" in " ".join(command_of(p))]


@pytest.fixture
def text(tmp_path: Path) -> list[object]:
    """The words of a sharding job of four tars."""
    folder = write_texts(tmp_path / "stories", 30)
    documents = [path.read_text() for path in sorted(folder.iterdir())]
    train_tokenizer(documents, tmp_path / "tokenizer.model", vocab_size=400)
    last = write_blocking_tar(tmp_path)
    return ["shard", "stories", last, "--tokenizer=tokenizer.model", "--task-mb=0.002"]


@pytest.mark.slow
def test_a_part_that_is_killed_runs_again_by_itself_and_the_corpus_has_the_bytes_of_one_machine(
    cluster: SlurmCluster, tmp_path: Path, text: list[object]
) -> None:
    (tmp_path / "profile.yaml").write_text("partition: main\ncpus_per_rank: 1\n")
    submit = [*text, "--out=corpus", "--cluster=profile.yaml", "--tasks=4"]
    said = bigtrain(cluster, *submit, folder=tmp_path)
    folder = tmp_path / "corpus" / "tasks"
    jobs = jobs_of(folder)
    assert [(name, job["parts"]) for name, job in jobs.items()] == [("shard", 4), ("seal", None)]
    assert f"submitted job {jobs['shard']['job']}: shard, 4 of 4 parts" in said

    again = bigtrain(cluster, *submit, folder=tmp_path, code=2)
    assert f"in the queue: {jobs['shard']['job']} {jobs['seal']['job']} (" in again
    assert len(again.strip().splitlines()) == 1

    wait_until(lambda: bool(part_processes(cluster, "3/4")), 60)
    wait_until(lambda: len(list(folder.glob("00000?.json"))) == 3, 60)
    status = bigtrain(cluster, "status", "corpus", folder=tmp_path)
    assert "corpus: 3 of 4 tasks done" in status
    assert f"job {jobs['seal']['job']} (seal): pending (Dependency)" in status
    for process in part_processes(cluster, "3/4"):
        process.send_signal(signal.SIGKILL)
    failures = folder / "cluster" / f"shard-{jobs['shard']['job']}_3.failures"
    wait_until(failures.exists, 30)
    assert "exit code 137 on n" in failures.read_text()
    (tmp_path / "go").touch()
    cluster.wait_state(jobs["seal"]["job"], "COMPLETED", "FAILED", timeout=90)
    assert "sealed" in log_of(folder, "seal", jobs["seal"]["job"])

    bigtrain(cluster, *text, "--out=alone", folder=tmp_path)
    assert result_bytes(tmp_path / "corpus") == result_bytes(tmp_path / "alone")
    log = log_of(folder, "shard", f"{jobs['shard']['job']}_3")
    assert log.count(" begins on ") == 2
    done = bigtrain(cluster, *submit, folder=tmp_path)
    assert "all 4 tasks are done already; nothing to submit" in done


@pytest.mark.slow
def test_a_part_that_was_lost_is_named_by_the_seal_and_alone_submitted_again(
    cluster: SlurmCluster, tmp_path: Path, text: list[object]
) -> None:
    submit = [*text, "--out=corpus", "--cluster=profile.yaml", "--tasks=4"]
    (tmp_path / "profile.yaml").write_text("partition: main\n")
    bigtrain(cluster, *submit, folder=tmp_path)
    folder = tmp_path / "corpus" / "tasks"
    first = jobs_of(folder)
    wait_until(lambda: bool(part_processes(cluster, "3/4")), 60)
    cluster.run("scancel", "--full", "--signal=KILL", f"{first['shard']['job']}_3")
    cluster.wait_state(first["seal"]["job"], "FAILED", timeout=60)
    log = log_of(folder, "seal", first["seal"]["job"])
    assert "lacks 1 of 4 tars (000003): run the same `bigtrain data shard` again with" in log
    assert not (tmp_path / "corpus/train/manifest.json").exists()

    (tmp_path / "go").touch()
    said = bigtrain(cluster, *submit, folder=tmp_path)
    second = jobs_of(folder)
    assert "shard, 1 of 4 parts" in said
    cluster.wait_state(second["seal"]["job"], "COMPLETED", "FAILED", timeout=60)
    bigtrain(cluster, *text, "--out=alone", folder=tmp_path)
    assert result_bytes(tmp_path / "corpus") == result_bytes(tmp_path / "alone")


@pytest.mark.slow
def test_a_cleaned_corpus_in_parts_has_the_bytes_of_one_machine_also_after_a_part_was_lost(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    rng = random.Random(3)
    good = [random_prose(rng, words=150) for _ in range(12)]
    near = change_words(good[2], rng, count=2)
    texts = [*good[:6], near, *good[6:], good[1], "Short."]
    write_json_lines(tmp_path / "pages.jsonl", [{"text": text} for text in texts])
    (tmp_path / "profile.yaml").write_text(
        'partition: main\nprolog: ["[ x$SLURM_ARRAY_TASK_ID != x1 ] || [ -e go ] || exit 2"]\n'
    )
    words = ["clean", "configs/data/clean.yaml", "inputs=[pages.jsonl]", "task_mb=0.003"]
    submit = [*words, "out=cleaned", "--cluster=profile.yaml", "--tasks=3"]
    bigtrain(cluster, *submit, folder=tmp_path)
    folder = tmp_path / "cleaned" / ".tasks"
    first = jobs_of(folder)
    assert list(first) == ["scan", "duplicates", "write", "seal"]
    cluster.wait_state(first["seal"]["job"], "FAILED", timeout=90)
    assert "tasks are not scanned (000001" in log_of(folder, "seal", first["seal"]["job"])
    log = log_of(folder, "duplicates", first["duplicates"]["job"])
    assert "run the same command again with --only scan --task 1/3" in log

    (tmp_path / "go").touch()
    bigtrain(cluster, *submit, folder=tmp_path)
    second = jobs_of(folder)
    assert {name: job["parts"] for name, job in second.items()} == {
        "scan": 1,
        "duplicates": None,
        "write": 3,
        "seal": None,
    }
    cluster.wait_state(second["seal"]["job"], "COMPLETED", "FAILED", timeout=90)
    bigtrain(cluster, *words, "out=alone", folder=tmp_path)
    assert result_bytes(tmp_path / "cleaned") == result_bytes(tmp_path / "alone")
    report = json.loads((tmp_path / "cleaned" / "report.json").read_text())
    assert {*report["dropped"]} >= {"exact_duplicates", "near_duplicates"}


def test_a_refused_job_leaves_no_job_and_no_folder(
    cluster: SlurmCluster, tmp_path: Path, text: list[object]
) -> None:
    (tmp_path / "profile.yaml").write_text("partition: nowhere\n")
    submit = [*text, "--out=corpus", "--cluster=profile.yaml", "--tasks=4"]
    said = bigtrain(cluster, *submit, folder=tmp_path, code=2)
    assert said.startswith("bigtrain: sbatch") and "set partition in the cluster profile" in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "corpus").exists()
    assert not cluster.alive_jobs()
    submit[-1] = "--tasks=100000"
    said = bigtrain(cluster, *submit, folder=tmp_path, code=2)
    assert "have at most 1001 parts (MaxArraySize); use --tasks 1001 or fewer" in said
