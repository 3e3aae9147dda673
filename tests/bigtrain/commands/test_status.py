"""`bigtrain status` says how a run is doing, from the files of real tiny runs and a queue."""

import json
import os
import shutil
import socket
import time
from pathlib import Path

import pytest

from bigtrain.commands.run_table import list_views, render_list
from bigtrain.commands.status_text import render_status
from bigtrain.commands.status_view import StatusView, as_json, build_status_view
from bigtrain.runs.goodput import Kind
from bigtrain.runs.run_list import NoRunError, find_run
from bigtrain.runs.run_status import read_run_status
from launcher.slurm.queue import QueueAnswer, ask_queue
from tests.bigtrain.commands import fake_slurm
from tests.bigtrain.commands.fake_slurm import FakeSlurm
from tests.bigtrain.commands.watched_runs import (
    add_events,
    add_job,
    add_status,
    add_supervisor,
    iso,
)
from tests.ranks import run_ranks
from tests.runs import tiny_config, train_rank


@pytest.fixture(scope="module")
def finished_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two attempts: the first takes 12 steps, and the second goes on to step 30."""
    runs = tmp_path_factory.mktemp("runs")
    for steps in (12, 30):
        config = tiny_config(corpus, runs, train={"steps": steps}, optim={"decay_steps": 30})
        run_ranks(train_rank, 1, config)
    return config.run_dir


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(finished_run, tmp_path / "runs/tiny"))


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """SLURM's commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return FakeSlurm(folder, monkeypatch)


def _view(run: Path, queue: QueueAnswer | None = None) -> StatusView:
    return build_status_view(read_run_status(run, now=time.time()), queue or QueueAnswer())


def _text(view: StatusView) -> str:
    return "\n".join(render_status(view))


def test_the_status_of_a_finished_run(finished_run: Path) -> None:
    view = _view(finished_run)
    text = _text(view)
    assert text.splitlines()[0] == f"{finished_run}: finished, step 30 of 30 (100.0%)"
    assert "attempts    2" in text
    assert "1: from step 0 on 1 rank" in text
    assert "finished at step 12" in text
    assert "2: from step 12 on 1 rank" in text
    assert "checkpoints/step-00000030, " in text
    assert "per step (median of 18 steps)" in text
    assert not view.warnings


def test_goodput_of_a_real_run_adds_up(finished_run: Path) -> None:
    ledger = read_run_status(finished_run, now=time.time()).ledger
    lines = (finished_run / "metrics.jsonl").read_text().splitlines()
    steps = sum(json.loads(line).get("step_seconds", 0) for line in lines)
    ends = (finished_run / "attempts.jsonl").read_text().splitlines()
    allocated = sum(json.loads(line).get("seconds", 0) for line in ends)
    assert ledger.seconds[Kind.STEPS] == pytest.approx(steps, abs=0.01)
    assert ledger.allocated == pytest.approx(allocated, abs=0.05)
    assert ledger.seconds[Kind.VALIDATION] > 0
    assert ledger.seconds[Kind.CHECKPOINT] > 0
    assert ledger.seconds[Kind.OTHER] < 0.3 * ledger.allocated


def test_a_run_that_trains_shows_step_time_left_and_nodes(run: Path, slurm: FakeSlurm) -> None:
    add_job(run, "6")
    add_status(run, step=20, reason=None)
    add_supervisor(run, state="running")
    slurm.answer(fake_slurm.RUNNING)
    view = _view(run, ask_queue(["6"]))
    text = _text(view)
    assert view.state == "running"
    assert "step 20 of 30 (66.7%)" in text
    assert "job         6 RUNNING since" in text
    assert "on n[1-2]" in text
    assert "for 10 steps at this speed; 59 min 58 s to the job's time limit" in text
    assert "n1 in use, ranks 0-1, train at step 41, its slowest rank silent for 0.4 s" in text
    assert "supervisor  4 ranks train (just now on n1)" in text


def test_the_time_limit_is_compared_with_the_time_left(run: Path, slurm: FakeSlurm) -> None:
    add_job(run, "6")
    add_status(run, step=20)
    add_supervisor(run)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("  steps: 30\n", "  steps: 3000000\n"))
    slurm.answer(fake_slurm.RUNNING)
    assert "more jobs of this length will follow" in _text(_view(run, ask_queue(["6"])))


def test_many_nodes_are_compressed(run: Path) -> None:
    node = {"state": "in_use", "ranks": "0", "phase": "train", "step": 9, "seconds_since": 0.1}
    nodes = {f"gpu{number:03}": node for number in range(1, 41)}
    nodes["gpu007"] = {"state": "lost", "ranks": "", "phase": None, "step": None}
    add_job(run, scheduler="hosts", hosts=["a"])
    add_supervisor(run, nodes=nodes)
    text = _text(_view(run))
    assert "39 in use, train at step 9: gpu[001-006,008-040]" in text
    assert "1 lost: gpu007" in text


def test_a_waiting_job_shows_the_reason_of_the_scheduler(tmp_path: Path, slurm: FakeSlurm) -> None:
    add_job(tmp_path / "new", "7", state="submitted")
    slurm.answer(fake_slurm.RESOURCES)
    view = _view(tmp_path / "new", ask_queue(["7"]))
    assert view.state == "waiting"
    assert "7 PENDING (Resources: waits until enough nodes are free), 2 nodes" in _text(view)


def test_restarts_are_shown_with_their_reasons(run: Path) -> None:
    (run / "attempts.jsonl").unlink()
    start = {"event": "start", "process": 1, "host": "n1", "world_size": 4}
    end = {"event": "attempt_end", "kind": "rank_failed", "message": "rank 3 failed: KeyError: 'x'"}
    add_events(
        run,
        {"event": "job_start", "job": "6", "nodes": ["n1", "n2"], "time": iso(900)},
        {**start, "attempt": 1, "step": 0, "time": iso(880)},
        {**end, "attempt": 1, "last_step": 37, "saved_step": 30, "time": iso(500)},
        {"event": "decision", "action": "restart", "reason": "on n1, n2", "time": iso(499)},
        {**start, "attempt": 2, "step": 30, "time": iso(480)},
        {"event": "straggler", "rank": 3, "node": "n2", "ratio": 1.31, "step": 35, "time": iso(9)},
    )
    add_job(run, scheduler="hosts", hosts=["a"])
    add_supervisor(run)
    text = _text(_view(run))
    assert "attempts    2 in 1 allocation, 1 restart within one" in text
    assert "rank failed at step 37: rank 3 failed: KeyError: 'x' → restart: on n1, n2" in text
    assert "2: from step 30 on 4 ranks, job 6" in text
    assert "rank 3 on n2: 1.31 × the median time of a step, at step 35" in text


def test_a_silent_supervisor_is_reported(run: Path, slurm: FakeSlurm) -> None:
    add_job(run, "6")
    for name in ("attempts.jsonl", "metrics.jsonl"):
        (run / name).unlink()
    add_status(run, age=185)
    add_supervisor(run, age=181, message="4 ranks train")
    slurm.answer(fake_slurm.RUNNING)
    view = _view(run, ask_queue(["6"]))
    assert view.warnings == (
        "no news for 3 min 1 s from its supervisor on n1; its last: 4 ranks train",
    )


def test_a_job_that_vanished_from_the_queue_is_reported(run: Path, slurm: FakeSlurm) -> None:
    add_job(run, "6")
    add_status(run, age=4000)
    add_supervisor(run, age=4000)
    slurm.answer()
    view = _view(run, ask_queue(["6"]))
    assert view.state == "lost"
    assert "job 6 is no longer in the queue, and recorded no end" in view.warnings[0]
    assert f"`bigtrain requeue {run}`" in view.warnings[0]


def test_a_job_that_was_cancelled_before_it_began_is_reported(
    tmp_path: Path, slurm: FakeSlurm
) -> None:
    add_job(tmp_path / "new", "6", state="submitted")
    slurm.answer(fake_slurm.CANCELLED)
    view = _view(tmp_path / "new", ask_queue(["6"]))
    assert view.state == "lost"
    assert "never began" in view.warnings[0] and "see `sacct -j 6`" in view.warnings[0]
    logs = tmp_path / "new/logs"
    logs.mkdir()
    (logs / "slurm-6.out").write_text("python: not found")
    assert f"see {logs}/slurm-6.out" in _view(tmp_path / "new", ask_queue(["6"])).warnings[0]


def test_without_an_answer_of_the_controller_the_files_are_shown(
    run: Path, slurm: FakeSlurm
) -> None:
    add_job(run, "6")
    add_status(run, step=20)
    add_supervisor(run)
    slurm.fail(fake_slurm.DOWN)
    view = _view(run, ask_queue(["6"]))
    assert view.state == "running"
    assert "the queue is not shown: squeue" in view.warnings[0]
    assert view.warnings[1] == "what follows is from the run folder"
    assert "step 20 of 30" in _text(view)


def test_a_damaged_state_file_is_told_and_the_others_are_shown(run: Path) -> None:
    (run / "status.json").write_text('{"state": "runn')
    (run / "supervisor.json").write_text("[]")
    view = _view(run)
    assert len(view.warnings) == 2
    assert "status.json is damaged" in view.warnings[0]
    assert "supervisor.json is damaged" in view.warnings[1]
    text = _text(view)
    assert "finished, step 30 of 30" in text  # From attempts.jsonl and metrics.jsonl.
    assert "2: from step 12 on 1 rank" in text
    (run / "config.yaml").write_text("train: [")
    assert "the config cannot be read" in _text(_view(run))


def test_a_local_run_that_was_killed_is_lost(run: Path) -> None:
    add_status(run, step=20, age=500)
    gone = {"event": "start", "attempt": 3, "process": 2**22 + 1, "step": 20, "time": iso(500)}
    add_events(run, {**gone, "host": socket.gethostname()})
    view = _view(run)
    assert view.state == "lost"
    assert "no longer exists and recorded no end: it was killed" in view.warnings[0]
    # A run on another machine may still be alive.
    add_events(run, {**gone, "attempt": 4, "host": "elsewhere"})
    view = _view(run)
    assert view.state == "running"
    assert view.warnings == ()  # The event is new.


def test_a_silent_local_run_is_reported(tmp_path: Path) -> None:
    add_status(tmp_path, age=200)
    event = {"event": "start", "attempt": 1, "process": os.getpid(), "time": iso(400)}
    add_events(tmp_path, {**event, "host": socket.gethostname()})
    (warning,) = _view(tmp_path).warnings
    assert warning == "no news for 3 min 20 s: it may be validating, saving or hanging"


def test_json_has_what_the_text_shows(run: Path, slurm: FakeSlurm) -> None:
    add_job(run, "6")
    add_status(run, step=20)
    add_supervisor(run)
    slurm.answer(fake_slurm.RUNNING)
    values = json.loads(json.dumps(as_json(_view(run, ask_queue(["6"])))))
    assert (values["state"], values["step"], values["steps"]) == ("running", 20, 30)
    assert values["queue"][0]["state"] == "RUNNING"
    assert values["seconds_to_time_limit"] == 3598
    assert values["supervisor"]["nodes"]["n1"]["ranks"] == "0-1"
    assert sum(values["seconds"].values()) == pytest.approx(values["allocated_seconds"], abs=0.01)
    assert [attempt["end"] for attempt in values["attempts"]] == ["finished", "finished"]


def test_runs_are_listed_newest_first(run: Path, slurm: FakeSlurm) -> None:
    runs = run.parent
    add_job(runs / "waits", "7", state="submitted")
    add_job(runs / "trains", "6")
    add_status(runs / "trains", age=0.0)
    add_supervisor(runs / "trains", age=0.0)
    (runs / "no-run").mkdir()
    slurm.answer(fake_slurm.RUNNING, fake_slurm.RESOURCES)
    lines = [*render_list(list_views(runs, now=time.time()), runs)]
    assert [line.split()[0] for line in lines] == ["run", "trains", "waits", "tiny"]
    assert lines[1].split()[1:4] == ["running", "41", "2.5000"]
    assert lines[2].split()[1] == "waiting"
    assert lines[2].endswith("7 PENDING Resources")
    assert lines[3].split()[1:3] == ["finished", "30/30"]
    assert len(slurm.calls("squeue")) == 1


def test_a_run_is_found_by_its_folder_or_its_name(run: Path, monkeypatch) -> None:
    runs = run.parent
    assert find_run(str(run), Path("nowhere")) == run
    assert find_run("tiny", runs) == runs / "tiny"
    with pytest.raises(NoRunError, match="no run of this name"):
        find_run("tinny", runs)
    with pytest.raises(NoRunError, match="there is no such folder"):
        find_run(str(runs / "tinny"), runs)
    (runs / "empty").mkdir()
    with pytest.raises(NoRunError, match="it is an empty folder"):
        find_run("empty", runs)
