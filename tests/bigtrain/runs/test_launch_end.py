"""The launcher records why an attempt ended when rank 0 could not."""

import json
import os
from pathlib import Path

import pytest

from bigtrain.runs.launch_end import record_end
from bigtrain.runs.run_folder import RunFolder
from bigtrain.track.json_lines import read_lines
from launcher.failures import RankFailure
from launcher.local import LaunchResult
from tests.runs import tiny_config

KILLED = RankFailure(1, None, "SIGKILL", "killed by SIGKILL", Path("rank-1.log"))


@pytest.fixture
def folder(corpus: Path, tmp_path: Path) -> RunFolder:
    """The folder of a run whose first attempt is at step 7; this process acts as its rank 0."""
    config = tiny_config(corpus, tmp_path)
    folder = RunFolder(config.run_dir)
    folder.begin_attempt(config, world_size=2)
    folder.write_status(state="running", step=7, loss=1.5, reason=None)
    return folder


def _end(
    folder: RunFolder,
    failure: RankFailure | None = KILLED,
    stopped_by: str | None = None,
    process: int | None = None,
) -> None:
    record_end(
        folder,
        LaunchResult(
            exit_code=1,
            failure=failure,
            interrupted=stopped_by is not None,
            stop_signal=stopped_by,
            rank_zero_pid=process or os.getpid(),
        ),
    )


def _read(folder: RunFolder) -> tuple[dict, list[dict]]:
    return json.loads(folder.status.read_text()), list(read_lines(folder.attempts))


def test_the_status_of_a_run_whose_rank_was_killed_names_the_rank(folder: RunFolder) -> None:
    _end(folder)
    status, events = _read(folder)
    assert (status["state"], status["step"], status["loss"]) == ("failed", 7, 1.5)
    assert status["reason"] == "rank 1 failed first: killed by SIGKILL"
    assert [event["event"] for event in events] == ["start", "end"]
    assert events[1]["reason"] == status["reason"]
    assert events[1]["attempt"] == 1


def test_a_lost_connection_recorded_by_rank_0_is_replaced_by_the_failure_of_its_peer(
    folder: RunFolder,
) -> None:
    lost_peer = "RuntimeError: Connection closed by peer"
    folder.write_status(state="failed", step=7, reason=lost_peer)
    folder.end_attempt(1, state="failed", step=7, reason=lost_peer)
    _end(folder)
    status, events = _read(folder)
    assert status["reason"] == "rank 1 failed first: killed by SIGKILL"
    assert [event.get("reason") for event in events] == [None, status["reason"]]
    assert events[1]["step"] == 7


def test_a_failure_of_rank_0_itself_stays_recorded(folder: RunFolder) -> None:
    folder.write_status(state="failed", step=7, reason="KeyError: 'x'")
    folder.end_attempt(1, state="failed", step=7, reason="KeyError: 'x'")
    before = _read(folder)
    _end(folder, RankFailure(0, 1, None, "KeyError: 'x' (traceback: …)", None))
    assert _read(folder) == before


@pytest.mark.parametrize("state", ["finished", "stopped"])
def test_the_record_of_a_completed_attempt_stays(folder: RunFolder, state: str) -> None:
    folder.write_status(state=state, step=7, reason=None)
    folder.end_attempt(1, state=state, step=7, reason=None)
    before = _read(folder)
    _end(folder)
    _end(folder, None, stopped_by="Ctrl-C")
    assert _read(folder) == before


def test_a_second_ctrl_c_is_recorded(folder: RunFolder) -> None:
    _end(folder, None, stopped_by="Ctrl-C")
    status, events = _read(folder)
    assert status["state"] == "failed"
    assert status["reason"] == events[1]["reason"] == "killed after Ctrl-C, before it had saved"


def test_the_record_of_another_launchers_attempt_is_not_changed(folder: RunFolder) -> None:
    before = _read(folder)
    _end(folder, process=os.getpid() + 1)
    assert _read(folder) == before


def test_the_record_of_a_newer_attempt_is_not_changed(folder: RunFolder) -> None:
    before = _read(folder)
    newer = RunFolder(folder.path)
    newer.lock()
    _end(folder)
    assert _read(folder) == before


def test_a_failed_write_of_the_record_is_only_a_warning(
    folder: RunFolder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bigtrain.runs.run_lock.acquire_run_lock", full)
    _end(folder)
    (line,) = caplog.messages
    assert "how the run ended was not written" in line
    assert "No space left on device" in line


def test_a_successful_end_is_not_recorded_by_the_launcher(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigtrain.runs.run_lock.acquire_run_lock", None)
    _end(folder, None)


def test_a_job_that_failed_before_any_attempt_makes_no_run_folder(tmp_path: Path) -> None:
    _end(RunFolder(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
