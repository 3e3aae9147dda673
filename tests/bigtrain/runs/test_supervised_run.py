"""A run folder as the supervisor sees it."""

import errno
import json
from pathlib import Path

import pytest

from bigtrain.config import ConfigError, RunConfig, render_config
from bigtrain.config.rewind_plan import RewindPlan
from bigtrain.runs.run_folder import RunFolder
from bigtrain.runs.run_lock import run_lock
from bigtrain.runs.supervised_run import SupervisedTraining
from bigtrain.track.json_lines import read_lines
from launcher.supervisor.history import read_history
from launcher.supervisor.values import AttemptEnd, EndKind, StopCause
from tests.runs import tiny_config


@pytest.fixture
def config(corpus: Path, tmp_path: Path) -> RunConfig:
    config = tiny_config(corpus, tmp_path)
    config.run_dir.mkdir()
    (config.run_dir / "config-job.yaml").write_text(render_config(config))
    return config


def _open(config: RunConfig) -> SupervisedTraining:
    return SupervisedTraining(
        config.run_dir, config_name="config-job.yaml", python="python9", accept_change=["a", "b"]
    )


def test_a_run_that_has_not_begun_is_at_step_0(config: RunConfig) -> None:
    progress = _open(config).progress()
    assert (progress.attempt, progress.step, progress.saved_step) == (None, 0, 0)
    assert not _open(config).is_finished()


def test_progress_is_that_of_the_newest_attempt(config: RunConfig) -> None:
    folder = RunFolder(config.run_dir)
    folder.begin_attempt(config, world_size=2)
    folder.begin_attempt(config, world_size=2, step=10)
    folder.write_status(state="running", step=17)
    progress = _open(config).progress()
    assert (progress.attempt, progress.attempt_step) == (2, 10)
    assert (progress.step, progress.state) == (17, "running")


def test_a_run_is_finished_only_if_all_steps_of_the_job_are_taken(config: RunConfig) -> None:
    folder = RunFolder(config.run_dir)
    folder.write_status(state="finished", step=config.train.steps - 1)
    assert not _open(config).is_finished()
    folder.write_status(state="finished", step=config.train.steps)
    assert _open(config).is_finished()


def test_the_ranks_read_the_config_of_the_job_with_the_skipped_samples(config: RunConfig) -> None:
    skips = "data: {skip: [{first_sample: 8, samples: 16}]}\n"
    (config.run_dir / "skip.yaml").write_text(skips)
    with _open(config).launch_config() as command:
        assert command[:4] == ("python9", "-m", "bigtrain.cli", "train-rank")
        assert command[5:] == ("--accept-change", "a", "--accept-change", "b")
        assert "first_sample: 8" in Path(command[4]).read_text()
    assert not Path(command[4]).exists()


def test_a_folder_that_was_moved_while_its_job_waited_is_refused(config: RunConfig) -> None:
    moved = config.run_dir.rename(config.run_dir.with_name("moved"))
    run = SupervisedTraining(moved, config_name="config-job.yaml", python="python")
    with pytest.raises(ConfigError, match="moved while its job waited"):
        run.load_config()


END = AttemptEnd(
    EndKind.DIVERGED,
    started_at_step=0,
    last_step=12,
    saved_step=10,
    message="loss is NaN",
    rank=1,
    nodes=("n2",),
    divergence=RewindPlan(11, 12, 10),
)


def _append_end(run: SupervisedTraining, end: AttemptEnd, action: str = "restart") -> None:
    from launcher.supervisor.attempt_runner import _plain

    run.append_event({"event": "attempt_end", "job": "1", "attempt": 1, **_plain(end)})
    run.append_event({"event": "decision", "action": action, "reason": ""})


def test_the_history_is_read_back_as_it_was_written(config: RunConfig) -> None:
    run = _open(config)
    stopped = AttemptEnd(EndKind.STOPPED, 10, 20, 20, stop_cause=StopCause.PREEMPTED)
    run.append_event({"event": "job_start", "job": "1"})
    _append_end(run, END, action="rewind")
    _append_end(run, stopped, action="requeue")
    run.append_event({"event": "job_end", "state": "requeued"})
    run.append_event({"event": "job_start", "job": "1"})
    first, second = read_history(run.history())
    assert first.rewound and first == AttemptEnd(
        **{name: getattr(END, name) for name in END.__slots__ if name != "rewound"}, rewound=True
    )
    assert second == stopped


@pytest.mark.parametrize("state", ["held", "failed", "stopped", "finished"])
def test_the_history_begins_anew_when_a_person_starts_the_run_again(
    config: RunConfig, state: str
) -> None:
    run = _open(config)
    _append_end(run, END)
    run.append_event({"event": "job_end", "state": state})
    assert read_history(run.history()) == []


def test_a_rewind_of_a_local_launch_counts(config: RunConfig) -> None:
    run = _open(config)
    run.append_event({"event": "decision", "action": "rewind", "reason": ""})
    assert [end.rewound for end in read_history(run.history())] == [True]


def test_events_of_another_version_are_left_out() -> None:
    events = [{"event": "attempt_end", "kind": "abducted"}, {"event": "attempt_end"}]
    assert read_history(events) == []


def test_a_failure_that_rank_0_could_not_record_is_recorded(config: RunConfig) -> None:
    folder = RunFolder(config.run_dir)
    folder.begin_attempt(config, world_size=2)
    folder.write_status(state="running", step=7)
    _open(config).record_failure(attempt=1, reason="n2 lost", rank=None)
    status = json.loads(folder.status.read_text())
    assert (status["state"], status["step"], status["reason"]) == ("failed", 7, "n2 lost")
    assert list(read_lines(folder.attempts))[-1]["reason"] == "n2 lost"


def test_a_good_end_that_rank_0_recorded_is_kept(config: RunConfig) -> None:
    folder = RunFolder(config.run_dir)
    folder.begin_attempt(config, world_size=2)
    folder.end_attempt(1, state="stopped", step=7, reason="by SIGTERM")
    before = folder.attempts.read_text()
    _open(config).record_failure(attempt=1, reason="stopped by SIGTERM", rank=None)
    assert folder.attempts.read_text() == before


def test_the_final_state_keeps_the_figures_of_the_status(config: RunConfig) -> None:
    folder = RunFolder(config.run_dir)
    folder.write_status(state="failed", step=7, loss=1.5, reason="x")
    _open(config).write_status(state="held", reason="three restarts without progress")
    status = json.loads(folder.status.read_text())
    assert (status["state"], status["step"], status["loss"]) == ("held", 7, 1.5)


def test_waiting_for_the_lock_ends_when_it_is_free_or_time_is_up(config: RunConfig, caplog) -> None:
    run = _open(config)
    run.wait_until_free(0)
    assert not caplog.records
    with run_lock(config.run_dir):
        run.wait_until_free(0)
        assert "is training this run" in caplog.text
        run.wait_until_free(600, is_over=lambda: True)


@pytest.mark.parametrize("name", ["is_finished", "progress"])
def test_a_status_that_cannot_be_read_for_a_time_does_not_count_as_absent(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    RunFolder(config.run_dir).write_status(state="finished", step=config.train.steps)
    monkeypatch.setattr(Path, "read_text", fail)
    with pytest.raises(OSError, match="Stale file handle"):
        getattr(_open(config), name)()


def test_checkpoints_that_cannot_be_listed_for_a_time_do_not_count_as_absent(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    RunFolder(config.run_dir).begin_attempt(config, world_size=1)
    monkeypatch.setattr("bigtrain.runs.supervised_run.committed_folders", fail)
    with pytest.raises(OSError, match="Input/output error"):
        _open(config).progress()
