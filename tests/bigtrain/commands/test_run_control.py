"""stop, cancel and requeue do what fits the state of the run, or refuse with one line."""

import json
import socket
from datetime import datetime
from pathlib import Path

import pytest

from bigtrain.commands.run_control import (
    RunControlError,
    cancel_run,
    requeue_run,
    stop_run,
    wait_until_stopped,
)
from bigtrain.runs.job_file import load_job
from bigtrain.runs.supervised_run import SupervisedTraining
from launcher.slurm.errors import SlurmUnavailableError
from tests.bigtrain.commands import fake_slurm
from tests.bigtrain.commands.fake_slurm import FakeSlurm
from tests.bigtrain.commands.watched_runs import (
    add_events,
    add_job,
    add_status,
    add_supervisor,
    iso,
)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """SLURM's commands; no job is in the queue."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return FakeSlurm(folder, monkeypatch)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose job 6 trains, as its files say."""
    folder = tmp_path / "runs/tiny"
    add_job(folder, "6")
    add_status(folder)
    add_supervisor(folder)
    (folder / "job.sh").write_text("#!/bin/bash\n")
    return folder


def _request(run: Path) -> dict:
    return json.loads((run / "request.json").read_text())


def test_stop_asks_the_supervisor_of_the_job_that_runs(run: Path, slurm: FakeSlurm) -> None:
    slurm.answer(fake_slurm.RUNNING)
    assert stop_run(run) == f"{run}: asked job 6 to save and end"
    request = _request(run)
    assert (request["request"], request["job"]) == ("stop", "6")
    assert request["by"].endswith(f"@{socket.gethostname()}")
    assert not (run / "STOP").exists()  # It could stop a later attempt.
    assert slurm.calls() == []


def test_stop_cancels_the_jobs_of_a_chain_that_wait(run: Path, slurm: FakeSlurm) -> None:
    add_job(run, "6", "9")
    slurm.answer(fake_slurm.DEPENDENCY, fake_slurm.RUNNING)
    line = stop_run(run)
    assert line.endswith("asked job 6 to save and end; cancelled job 9, which had not begun")
    assert slurm.calls() == ["scancel 9"]
    assert _request(run)["job"] == "6"


def test_stop_cancels_a_job_that_waits(run: Path, slurm: FakeSlurm) -> None:
    add_job(run, "7", state="submitted")
    (run / "supervisor.json").unlink()
    slurm.answer(fake_slurm.RESOURCES)
    assert stop_run(run) == f"{run}: cancelled job 7, which had not begun"
    assert slurm.calls() == ["scancel 7"]
    assert not (run / "request.json").exists()
    record = load_job(run)
    assert record is not None
    assert record.state == "ended"


def test_a_silent_supervisor_gets_help_from_the_stop_file(run: Path, slurm: FakeSlurm) -> None:
    slurm.answer(fake_slurm.RUNNING)
    add_supervisor(run, age=180)
    add_status(run, age=180)
    line = stop_run(run)
    assert "no news for 3 min" in line
    assert "bigtrain cancel" in line
    assert (run / "STOP").exists()
    assert _request(run)["job"] == "6"


def test_stop_reaches_a_run_whose_controller_is_down(run: Path, slurm: FakeSlurm) -> None:
    slurm.fail(fake_slurm.DOWN)
    assert "jobs that wait were not cancelled" in stop_run(run)
    assert _request(run)["job"] == "6"
    add_supervisor(run, age=600)
    with pytest.raises(SlurmUnavailableError, match="controller does not answer"):
        stop_run(run)


def test_commands_that_make_no_sense_are_refused(run: Path, slurm: FakeSlurm) -> None:
    add_status(run, state="stopped")
    add_supervisor(run, state="ended")
    slurm.answer()
    for command in (stop_run, cancel_run):
        with pytest.raises(RunControlError, match=r"nothing to .* \(stopped at step 41\)"):
            command(run)
    add_status(run, state="finished")
    with pytest.raises(RunControlError, match="finished, at step 41"):
        requeue_run(run)
    slurm.answer(fake_slurm.RESOURCES)
    with pytest.raises(RunControlError, match="job 7 waits in the queue already"):
        requeue_run(run)
    assert slurm.calls() == []
    assert not (run / "request.json").exists()


def test_cancel_leaves_its_mark_before_it_cancels(
    run: Path, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_job(run, "6", "9")
    slurm.answer(fake_slurm.RUNNING, fake_slurm.DEPENDENCY)
    marks = []
    monkeypatch.setattr(
        "bigtrain.commands.run_control.cancel_job",
        lambda job: marks.append((job, _request(run)["request"])),
    )
    assert "cancelled jobs 9, 6" in cancel_run(run)
    assert marks == [("9", "cancel"), ("6", "cancel")]


def test_requeue_makes_a_running_job_save_as_before_its_time_limit(
    run: Path, slurm: FakeSlurm
) -> None:
    slurm.answer(fake_slurm.RUNNING)
    assert "asked job 6 to save, and to go into the queue again" in requeue_run(run)
    assert slurm.calls() == ["scancel --signal=USR2 --batch 6"]
    assert (_request(run)["request"], _request(run)["job"]) == ("requeue", "6")
    add_job(run, "6", restart="none")
    with pytest.raises(RunControlError, match="restart: none"):
        requeue_run(run)


@pytest.mark.parametrize(
    ("job", "call", "said"),
    [
        (fake_slurm.HELD, "scontrol release 8", "released job 8"),
        (fake_slurm.REQUEUED_HELD, "scontrol release 6", "released job 6"),
        (fake_slurm.BEGIN_TIME, "scontrol update JobId=6 StartTime=now", "may begin now"),
    ],
)
def test_requeue_releases_a_job_that_waits_for_a_person_or_a_time(
    run: Path, slurm: FakeSlurm, job: str, call: str, said: str
) -> None:
    slurm.answer(job)
    assert said in requeue_run(run)
    assert slurm.calls() == [call]


def test_a_job_that_was_requeued_just_now_is_not_started_at_once(
    run: Path, slurm: FakeSlurm
) -> None:
    now = datetime.now().isoformat(timespec="seconds")
    slurm.answer(fake_slurm.BEGIN_TIME.replace("2020-11-29T10:23:19", now))
    with pytest.raises(RunControlError, match=r"job 6 went into the queue .* ago"):
        requeue_run(run)
    assert slurm.calls() == []


def test_requeue_submits_a_stopped_run_again_without_its_old_requests(
    run: Path, slurm: FakeSlurm
) -> None:
    add_status(run, state="stopped")
    add_supervisor(run, state="ended")
    for name in ("STOP", "request.json"):
        (run / name).write_text("{}")
    bad = {"n3": {"reason": "slow", "until": iso(-3600), "run": "other"}}
    (run.parent / "excluded-nodes.json").write_text(json.dumps(bad))
    slurm.answer()
    assert requeue_run(run) == f"{run}: submitted again as job 77, without n3"
    assert slurm.calls() == [f"sbatch --parsable --exclude=n3 {run}/job.sh"]
    assert not (run / "STOP").exists()
    assert not (run / "request.json").exists()
    record = load_job(run)
    assert record is not None
    assert (record.jobs, record.state) == (("6", "77"), "submitted")


@pytest.mark.parametrize("job", [fake_slurm.HELD, None], ids=["released", "submitted"])
def test_failures_before_a_requeue_by_a_person_do_not_count_any_more(
    run: Path, slurm: FakeSlurm, job: str | None
) -> None:
    add_status(run, state="stopped")
    add_supervisor(run, state="ended")
    add_events(run, {"event": "job_start", "job": "6"}, {"event": "attempt_end", "job": "6"})
    supervised = SupervisedTraining(run, config_name="config-job.yaml", python="python")
    assert len(supervised.history()) == 2
    slurm.answer(*([job] if job else []))
    requeue_run(run)
    assert supervised.history() == []
    add_events(run, {"event": "job_start", "job": "77"})
    assert [event["job"] for event in supervised.history()] == ["77"]


def test_a_failed_submission_changes_nothing(run: Path, slurm: FakeSlurm) -> None:
    add_status(run, state="stopped")
    add_supervisor(run, state="ended")
    before = (run / "job.json").read_text()
    slurm.fail(fake_slurm.DOWN)
    with pytest.raises(SlurmUnavailableError):
        requeue_run(run)
    assert (run / "job.json").read_text() == before


def test_a_local_run_is_stopped_by_the_stop_file(tmp_path: Path) -> None:
    add_status(tmp_path, state="running")
    assert "asked to save and end after its current step" in stop_run(tmp_path)
    assert (tmp_path / "STOP").exists()
    assert not (tmp_path / "request.json").exists()
    with pytest.raises(RunControlError, match=r"`bigtrain launch .*` resumes it"):
        requeue_run(tmp_path)


def test_a_local_run_whose_process_is_gone_is_not_stopped(tmp_path: Path) -> None:
    add_status(tmp_path, state="running")
    gone = {"event": "start", "attempt": 1, "process": 2**22 + 1, "time": iso(9)}
    add_events(tmp_path, {**gone, "host": socket.gethostname()})
    with pytest.raises(RunControlError, match=r"nothing to stop.*\(lost at step 41\)"):
        stop_run(tmp_path)
    assert not (tmp_path / "STOP").exists()


def test_a_run_over_ssh_gets_a_request_without_a_job(tmp_path: Path) -> None:
    add_job(tmp_path, scheduler="hosts", hosts=["a", "b"])
    add_status(tmp_path)
    add_supervisor(tmp_path, job=None)
    assert cancel_run(tmp_path).endswith("asked its supervisor to save and end")
    assert (_request(tmp_path)["request"], _request(tmp_path)["job"]) == ("cancel", None)


def test_waiting_ends_with_the_run(run: Path, slurm: FakeSlurm) -> None:
    add_status(run, state="stopped", reason="on request")
    add_supervisor(run, state="ended")
    slurm.answer(fake_slurm.CANCELLED)
    shown: list[str] = []
    line = wait_until_stopped(run, show=shown.append)
    assert line.startswith(f"{run}: stopped at step 41 (on request), after ")
    assert shown == []


def test_a_damaged_job_file_is_one_line(run: Path) -> None:
    (run / "job.json").write_text('{"schema": ')
    with pytest.raises(RunControlError, match=r"job\.json is not JSON"):
        stop_run(run)
