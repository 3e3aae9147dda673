"""status, stop, cancel and requeue with a real SLURM; a small script stands for the supervisor."""

import json
import sys
import time
from pathlib import Path

import pytest

from bigtrain.commands.run_control import (
    RunControlError,
    cancel_run,
    requeue_run,
    stop_run,
    wait_until_stopped,
)
from bigtrain.commands.status_text import render_status
from bigtrain.commands.status_view import StatusView, build_status_view
from bigtrain.runs.job_file import load_job, update_job
from bigtrain.runs.run_status import read_run_status
from launcher.slurm.client import submit_script
from launcher.slurm.queue import ask_queue
from tests.bigtrain.commands.watched_runs import add_job
from tests.slurm.cluster import SlurmCluster
from tests.slurm.processes import wait_until

# Reads requests and the warning signal as the supervisor does, and writes its files.
_SUPERVISOR = """
import json, os, signal, subprocess, sys, time
from datetime import UTC, datetime
from pathlib import Path

run, job = Path(sys.argv[1]), os.environ["SLURM_JOB_ID"]
warned = []
signal.signal(signal.SIGUSR2, lambda *_: warned.append(1))

def now():
    return datetime.now(UTC).isoformat()

def append(**event):
    with (run / "attempts.jsonl").open("a") as file:
        file.write(json.dumps({**event, "job": job, "time": now()}) + "\\n")

def write(state):
    nodes = {"n1": {"state": "in_use", "ranks": "0-1"}}
    values = {"time": now(), "job": job, "host": "n1", "state": state, "nodes": nodes}
    (run / "part").write_text(json.dumps(values))
    (run / "part").rename(run / "supervisor.json")

append(event="job_start", nodes=["n1", "n2"])
request = run / "request.json"

def asked_to_end():
    if not request.exists():
        return False
    asked = json.loads(request.read_text())
    return asked["job"] == job and asked["request"] != "requeue"

while not warned and not asked_to_end():
    write("running")
    time.sleep(0.2)
append(event="job_end", state="requeued" if warned else "stopped", reason="asked")
write("ended")
if warned:
    request.unlink()
    subprocess.run(["scontrol", "requeue", job], check=True)
    time.sleep(60)
request.unlink()
"""


@pytest.fixture
def run(cluster: SlurmCluster, tmp_path: Path) -> Path:
    """A run that has been submitted to two of the four nodes."""
    folder = tmp_path / "runs/tiny"
    add_job(folder, state="preparing")
    (tmp_path / "supervisor.py").write_text(_SUPERVISOR)
    (folder / "job.sh").write_text(
        "#!/bin/bash\n#SBATCH --job-name=tiny --nodes=2 --time=30 --requeue --open-mode=append\n"
        f"#SBATCH --output={tmp_path}/slurm-%j.out\ntrap '' USR2\n"
        f"exec {sys.executable} {tmp_path}/supervisor.py {folder}\n"
    )
    return folder


def _submit(run: Path) -> str:
    job = submit_script(run / "job.sh")
    update_job(run, lambda record: record.with_job(job))
    return job


def _view(run: Path) -> StatusView:
    status = read_run_status(run, now=time.time())
    assert status.record is not None
    return build_status_view(status, ask_queue(status.record.jobs))


def _wait_for(run: Path, *states: str) -> StatusView:
    wait_until(lambda: _view(run).state in states, 60, lambda: "\n".join(render_status(_view(run))))
    return _view(run)


def test_a_run_is_watched_requeued_and_stopped(cluster: SlurmCluster, run: Path) -> None:
    job = _submit(run)
    view = _wait_for(run, "running")
    text = "\n".join(render_status(view))
    assert f"{job} RUNNING since" in text
    assert "on n[1-2]" in text
    assert "to the job's time limit" in text
    assert view.warnings == ()
    assert f"asked job {job} to save, and to go into the queue again" in requeue_run(run)
    view = _wait_for(run, "waiting")
    assert f"{job} PENDING (BeginTime: not before its begin time), expected" in "\n".join(
        render_status(view)
    )
    with pytest.raises(RunControlError, match="went into the queue"):
        requeue_run(run)
    # SLURM delays a requeued job: here by a few seconds.
    _wait_for(run, "running")
    assert f"asked job {job} to save and end" in stop_run(run)
    assert "not started at step 0" in wait_until_stopped(run, show=lambda _: None)
    assert [job.end for job in read_run_status(run, now=time.time()).jobs] == [
        "requeued",
        "stopped",
    ]
    again = requeue_run(run)
    assert load_job(run).jobs[-1] in again  # type: ignore[union-attr]
    assert load_job(run).jobs[-1] != job  # type: ignore[union-attr]
    _wait_for(run, "running")


def test_a_cancelled_job_is_marked_and_not_requeued(cluster: SlurmCluster, run: Path) -> None:
    job = _submit(run)
    _wait_for(run, "running")
    assert f"cancelled job {job}" in cancel_run(run)
    wait_until(lambda: cluster.state(job) in ("CANCELLED", "COMPLETED"), 60)
    with pytest.raises(RunControlError, match="nothing to cancel"):
        cancel_run(run)


def test_a_held_job_is_released_and_a_waiting_one_cancelled(
    cluster: SlurmCluster, run: Path
) -> None:
    job = _submit(run)
    _wait_for(run, "running")
    cluster.run("scontrol", "requeuehold", job)
    view = _wait_for(run, "waiting")
    wait_until(lambda: "held" in _view(run).queue.waiting[0].reason.lower(), 30)
    assert f"released job {job}" in requeue_run(run)
    assert f"cancelled job {job}, which had not begun" in stop_run(run)
    wait_until(lambda: cluster.state(job) == "CANCELLED", 30)
    assert view.queue.waiting[0].job == job


def test_status_without_the_controller_shows_the_files(cluster: SlurmCluster, run: Path) -> None:
    _submit(run)
    _wait_for(run, "running")
    cluster.stop_controller()
    began = time.monotonic()
    view = _view(run)
    assert time.monotonic() - began < 15
    assert view.state == "running"
    assert "the queue is not shown" in view.warnings[0]
    cluster.start_controller()
    assert _wait_for(run, "running").warnings == ()


def test_a_job_that_was_killed_with_its_node_is_lost(cluster: SlurmCluster, run: Path) -> None:
    script = (run / "job.sh").read_text()
    (run / "job.sh").write_text(script.replace(" --requeue", " --no-requeue"))
    job = _submit(run)
    _wait_for(run, "running")
    cluster.run("scancel", "--signal=KILL", "--batch", job)
    view = _wait_for(run, "lost")
    assert f"job {job} is no longer in the queue, and recorded no end" in view.warnings[0]
    record = json.loads((run / "job.json").read_text())
    assert "submitted again" in requeue_run(run)
    assert record["jobs"] == [job]
