"""The file job.json of a run folder: written, read back, changed by two processes, refused."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from bigtrain.config.cluster import ClusterConfig
from bigtrain.runs.job_file import (
    JobFileError,
    JobRecord,
    load_job,
    update_job,
    write_job,
)
from bigtrain.runs.run_folder import RunFolder

RECORD = JobRecord(
    scheduler="slurm",
    jobs=(),
    submitted="2026-01-01T12:00:00+00:00",
    host="login1",
    nodes=4,
    spares=1,
    ranks_per_node=8,
    cluster=ClusterConfig(partition="gpu", exclude=("n7",), environment={"A": "b c"}),
    accept_change=("optim",),
)


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    write_job(tmp_path, RECORD)
    assert load_job(tmp_path) == RECORD
    values = json.loads((tmp_path / "job.json").read_text())
    assert values["schema"] == "bigtrain-job/1"
    assert (values["state"], values["jobs"]) == ("preparing", [])
    assert values["cluster"]["exclude"] == ["n7"]
    assert RECORD.world_size == 32


def test_a_run_that_was_launched_locally_has_no_record(tmp_path: Path) -> None:
    assert load_job(tmp_path) is None
    assert update_job(tmp_path, lambda record: record) is None


def test_a_submission_adds_the_job_and_does_not_undo_what_the_supervisor_wrote(
    tmp_path: Path,
) -> None:
    write_job(tmp_path, RECORD)
    assert update_job(tmp_path, lambda record: record.with_job("7")) == replace(
        RECORD, jobs=("7",), state="submitted"
    )
    write_job(tmp_path, RECORD)
    # The job began before `launch` had noted its id.
    update_job(tmp_path, lambda record: record.with_job("7").with_state("running"))
    update_job(tmp_path, lambda record: record.with_job("7"))
    record = load_job(tmp_path)
    assert record is not None
    assert (record.jobs, record.state) == (("7",), "running")


def test_no_change_is_lost_when_several_change_the_record_at_once(tmp_path: Path) -> None:
    write_job(tmp_path, RECORD)

    def add(first: int) -> None:
        for number in range(first, first + 10):
            update_job(tmp_path, lambda record, job=str(number): record.with_job(job))

    threads = [threading.Thread(target=add, args=(100 * index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    record = load_job(tmp_path)
    assert record is not None
    assert len(record.jobs) == 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "bigtrain-job/2"}, "this bigtrain reads bigtrain-job/1"),
        ({"nodes": "4"}, "nodes: Input should be a valid integer"),
        ({"state": "lost"}, "state: "),
        ({"cluster": {"partitoin": "gpu"}}, "cluster.partitoin: "),
        ({"jobs": [7]}, "jobs.0: "),
    ],
)
def test_a_record_that_does_not_fit_is_refused_in_one_line(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    write_job(tmp_path, RECORD)
    file = tmp_path / "job.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(JobFileError) as refused:
        load_job(tmp_path)
    assert message in str(refused.value)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "\xff"])
def test_a_damaged_record_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(JobFileError, match=r"job\.json"):
        load_job(tmp_path)


def test_keys_of_a_newer_version_are_ignored(tmp_path: Path) -> None:
    write_job(tmp_path, RECORD)
    file = tmp_path / "job.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "invoice": 7}))
    assert load_job(tmp_path) == RECORD


def test_the_command_that_resumes_a_run_is_that_of_the_cluster_it_ran_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_job(tmp_path, RECORD)
    (tmp_path / "job.sh").touch()
    assert folder.resume_command() == ["bigtrain", "requeue", str(tmp_path)]
    (tmp_path / "job.sh").unlink()
    launch = ["bigtrain", "launch", str(tmp_path), "--cluster"]
    assert folder.resume_command() == [*launch, "PROFILE.yaml", "--nodes", "4"]
    profile = ("--cluster", "/home/me/hosts.yaml", "cluster.spares=0")
    write_job(tmp_path, replace(RECORD, scheduler="hosts", profile=profile, nodes=2))
    (tmp_path / "job.sh").touch()  # Of an earlier launch on SLURM.
    assert folder.resume_command() == [*launch, *profile[1:], "--nodes", "2"]
