"""`bigtrain logs` shows the right output, and follows it across attempts and jobs."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bigtrain.runs.run_logs import Follower, NoLogError, find_streams, read_tail
from tests.bigtrain.commands.watched_runs import (
    add_events,
    add_job,
    add_status,
    add_supervisor,
    iso,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of four ranks on two nodes, in its second job."""
    folder = tmp_path / "runs/tiny"
    add_job(folder, "99", "100")
    add_status(folder)
    add_supervisor(folder)
    add_events(folder, {"event": "start", "attempt": 1, "world_size": 4, "time": iso(60)})
    (folder / "logs").mkdir()
    for job in (99, 100):
        (folder / f"logs/slurm-{job}.out").write_text(f"begin {job}\nend {job}\n")
    for rank in range(4):
        (folder / f"logs/rank-{rank}.log").write_text(f"rank {rank} says a\nrank {rank} says b\n")
    return folder


def _files(run: Path, **which) -> list[str]:
    return [file.name for stream in find_streams(run, **which) for file in stream.files]


def test_by_default_the_output_of_all_jobs_is_shown_oldest_first(run: Path) -> None:
    (run / "logs/slurm-9.out").touch()
    assert _files(run) == ["slurm-9.out", "slurm-99.out", "slurm-100.out"]
    (stream,) = find_streams(run)
    assert read_tail(stream.files, 3) == ["end 99", "begin 100", "end 100"]


def test_the_output_of_a_local_run_is_the_log_of_rank_0(run: Path) -> None:
    for file in (run / "logs").glob("slurm-*"):
        file.unlink()
    assert _files(run) == ["rank-0.log"]


def test_a_rank_or_the_ranks_of_a_node_are_shown(run: Path) -> None:
    assert _files(run, rank=3) == ["rank-3.log"]
    assert [stream.label for stream in find_streams(run, node="n2")] == ["rank 2", "rank 3"]
    assert _files(run, node="n2") == ["rank-2.log", "rank-3.log"]


def test_what_does_not_exist_is_named(run: Path) -> None:
    with pytest.raises(NoLogError, match="no rank 4: the run has ranks 0 to 3"):
        find_streams(run, rank=4)
    with pytest.raises(NoLogError, match=r"no node n9; its nodes are n\[1-2\]"):
        find_streams(run, node="n9")
    add_supervisor(run, nodes={"n1": {"state": "spare", "ranks": ""}})
    with pytest.raises(NoLogError, match="node n1 is spare and has no ranks"):
        find_streams(run, node="n1")
    (run / "supervisor.json").unlink()
    with pytest.raises(NoLogError, match=r"is not known: there is no supervisor\.json"):
        find_streams(run, node="n1")


def test_the_tail_of_a_long_file_is_read_from_its_end(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("".join(f"line {number} {'x' * 200}\n" for number in range(5000)) + "rest")
    lines = read_tail([tmp_path / "absent", file], 1000)
    assert len(lines) == 1000
    assert lines[0].startswith("line 4001 ")
    assert lines[-1] == "rest"
    assert read_tail([file], 0) == []


def test_new_lines_are_followed_into_a_later_job(run: Path) -> None:
    follower = Follower(lambda: find_streams(run))
    follower.begin(run / "logs")
    output = (run / "logs/slurm-100.out").open("a")
    output.write("more\nhal")
    output.flush()
    assert [*follower.read_new()] == [("", "more")]
    output.write("f\n")
    output.close()
    (run / "logs/slurm-101.out").write_text("a new job\n")
    assert [*follower.read_new()] == [("", "half"), ("", "a new job")]
    (run / "logs/slurm-101.out").write_text("anew\n")
    assert [*follower.read_new()] == [("", "anew")]
    assert [*follower.read_new()] == []


def test_ranks_that_move_to_the_node_are_followed_without_their_old_lines(run: Path) -> None:
    follower = Follower(lambda: find_streams(run, node="n2"))
    follower.begin(run / "logs")
    add_supervisor(run, nodes={"n2": {"state": "in_use", "ranks": "1"}})
    with (run / "logs/rank-1.log").open("a") as log:
        log.write("moved\n")
    assert [*follower.read_new()] == [("rank 1", "moved")]


def _start(run: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bigtrain.cli", "logs", str(run), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_following_ends_silently_with_ctrl_c(run: Path) -> None:
    process = _start(run, "--follow", "--lines", "1")
    output = io.StringIO()
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: output.writelines(process.stdout), daemon=True)  # type: ignore[arg-type]
    reader.start()
    _wait_until(lambda: output.getvalue() == "end 100\n")
    with (run / "logs/slurm-100.out").open("a") as log:
        log.write("more\n")
    _wait_until(lambda: output.getvalue() == "end 100\nmore\n")
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=30) == 130
    assert process.stderr is not None
    assert process.stderr.read() == ""


def test_the_reader_may_end_first(run: Path) -> None:
    with (run / "logs/slurm-100.out").open("a") as log:
        log.writelines("x" * 100 + "\n" for _ in range(5000))
    process = _start(run, "--lines", "5000")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""


def test_a_run_without_output_is_one_line(tmp_path: Path) -> None:
    add_job(tmp_path / "new", "7")
    done = _start(tmp_path / "new")
    _, error = done.communicate(timeout=30)
    assert done.returncode == 2
    assert error.startswith(f"bigtrain: {tmp_path}/new: no output yet in ")
    assert len(error.splitlines()) == 1
