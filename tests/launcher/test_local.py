"""A local job succeeds, or names the failed rank, and leaves no processes behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher import rank_exec
from launcher.local import LaunchResult, LocalLaunch, run_local
from tests.launcher.fake_ranks import is_alive, poll


def test_a_job_whose_ranks_all_exit_0_succeeds(make_launch):
    assert run_local(make_launch("pass")) == LaunchResult(0, None, False)


def test_ranks_get_their_numbers_and_the_same_port(make_launch, log_dir: Path):
    names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT"
    run_local(
        make_launch(f'put(f"seen-{{rank}}", " ".join(os.environ[n] for n in "{names}".split()))')
    )
    first, second = ((log_dir / f"seen-{rank}").read_text().split() for rank in (0, 1))
    assert first[:5] == ["0", "0", "2", "2", "127.0.0.1"]
    assert second[:5] == ["1", "1", "2", "2", "127.0.0.1"]
    assert first[5] == second[5] and int(first[5]) > 0


def test_a_rank_that_finishes_early_does_not_end_the_job(make_launch, log_dir: Path):
    body = """
        if rank == 1:
            put("early", os.getpid())
            sys.exit(0)
        wait_until((folder / "early").exists)
        early = int((folder / "early").read_text())
        wait_until(lambda: has_ended(early))
        put("late")
    """
    assert run_local(make_launch(body)).exit_code == 0
    assert (log_dir / "late").exists()


def test_only_rank_0_writes_to_the_terminal(make_launch, log_dir: Path, capfd):
    run_local(make_launch('print("hello from", rank)'))
    assert capfd.readouterr().out == "hello from 0\n"
    assert (log_dir / "rank-1.log").read_text() == "hello from 1\n"
    assert not (log_dir / "rank-0.log").exists()


def test_the_log_of_an_earlier_attempt_is_kept_but_not_quoted(make_launch, log_dir: Path):
    log_dir.mkdir()
    (log_dir / "rank-1.log").write_text("earlier words\n")
    result = run_local(make_launch("sys.exit(3 if rank == 1 else 0)"))
    assert result.failure.message == "exited with code 3"
    assert (log_dir / "rank-1.log").read_text() == "earlier words\n"


def test_a_failing_rank_is_named_with_its_message(make_launch, log_dir: Path):
    result = run_local(make_launch('fail("ValueError: no such shard") if rank == 1 else hang()'))
    assert (result.exit_code, result.interrupted) == (1, False)
    assert (result.failure.rank, result.failure.exit_code) == (1, 1)
    assert result.failure.message == "ValueError: no such shard"
    assert result.failure.log == log_dir / "rank-1.log"


def test_exit_code_2_of_a_rank_is_returned_for_bad_input(make_launch):
    result = run_local(make_launch('fail("model.layers: unknown key", 2) if rank == 0 else hang()'))
    assert (result.exit_code, result.failure.rank, result.failure.log) == (2, 0, None)


def test_the_message_of_a_rank_without_error_file_is_the_last_line_of_its_log(make_launch):
    result = run_local(make_launch('print("out of disk\\n\\n"); sys.exit(1 if rank == 1 else 0)'))
    assert result.failure.message == "out of disk"


def test_error_files_of_an_earlier_attempt_are_removed(make_launch, log_dir: Path):
    log_dir.mkdir()
    (log_dir / "rank-0.error.json").write_text('{"exit_code": 2, "message": "old", "time": 0}')
    (log_dir / "rank-7.error.json").write_text("{}")
    result = run_local(make_launch("sys.exit(1 if rank == 0 else 0)"))
    assert result.failure.message == "exited with code 1"
    assert not list(log_dir.glob("*.error.json"))


def test_a_killed_rank_is_named_and_not_the_peer_that_lost_its_connection(make_launch):
    body = """
        put(f"ready-{rank}", os.getpid())
        if rank == 1:
            wait_until((folder / "ready-0").exists)
            os.kill(os.getpid(), signal.SIGKILL)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        wait_until((folder / "ready-1").exists)
        wait_until(lambda: has_ended((folder / "ready-1").read_text()))
        fail("RuntimeError: Connection closed by peer")
    """
    result = run_local(make_launch(body, grace_seconds=10))
    assert (result.exit_code, result.failure.rank) == (1, 1)
    assert result.failure.signal_name == "SIGKILL"
    assert result.failure.exit_code is None


def test_a_hung_rank_is_killed_after_the_grace_period(make_launch, log_dir: Path):
    body = """
        if rank == 0:
            hang()
        wait_until((folder / "ready-0").exists)
        fail("ValueError: boom")
    """
    begin = time.monotonic()
    result = run_local(make_launch(body))
    assert time.monotonic() - begin < 10
    assert result.failure.rank == 1
    assert not is_alive(int((log_dir / "ready-0").read_text()))


def test_a_rank_that_reported_and_then_hung_is_still_the_first_to_fail(make_launch):
    body = """
        if rank == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            try:
                fail("ValueError: boom", 2)
            finally:
                time.sleep(600)
        wait_until((folder / "rank-0.error.json").exists)
        fail("RuntimeError: Connection closed by peer")
    """
    result = run_local(make_launch(body))
    assert (result.exit_code, result.failure.rank) == (2, 0)
    assert result.failure.message == "ValueError: boom"


STEPS_UNTIL_STOPPED = """
    record_signals(signal.SIGTERM, signal.SIGUSR2)
    wait_until(lambda: stops)
    put(f"saved-{rank}", int(stops[0]))
"""


@pytest.mark.parametrize(
    ("sent", "received", "exit_code"),
    [
        (signal.SIGINT, signal.SIGTERM, 130),
        (signal.SIGTERM, signal.SIGTERM, 0),
        (signal.SIGUSR2, signal.SIGUSR2, 0),
    ],
    ids=["Ctrl-C", "SIGTERM", "SIGUSR2"],
)
def test_a_stop_lets_all_ranks_save(launch, log_dir: Path, sent, received, exit_code):
    launched = launch(STEPS_UNTIL_STOPPED)
    launched.wait_for_ranks()
    launched.process.send_signal(sent)
    code, output, errors = launched.end()
    assert (code, output) == (exit_code, f"{exit_code} True None")
    assert [(log_dir / f"saved-{rank}").read_text() for rank in (0, 1)] == [str(int(received))] * 2
    assert "saving" in errors and "Ctrl-C kills the run at once" in errors


def test_a_second_ctrl_c_kills_the_ranks(launch):
    launched = launch(
        "record_signals(signal.SIGTERM); wait_until(lambda: stops); put(f'saving-{rank}'); hang()"
    )
    ranks = launched.wait_for_ranks()
    launched.process.send_signal(signal.SIGINT)
    poll((launched.log_dir / "saving-0").exists)
    assert all(map(is_alive, ranks))
    launched.process.send_signal(signal.SIGINT)
    assert launched.end()[:2] == (130, "130 True None")
    assert not any(map(is_alive, ranks))


def test_a_rank_that_fails_while_stopping_is_a_failure(launch):
    launched = launch(
        "record_signals(signal.SIGTERM); wait_until(lambda: stops); fail('OSError: disk full')"
    )
    launched.wait_for_ranks()
    launched.process.send_signal(signal.SIGTERM)
    assert launched.end()[:2] == (1, "1 True OSError: disk full")


def test_a_stop_before_the_ranks_handle_signals_is_not_a_success(launch):
    launched = launch("put(f'ready-{rank}', os.getpid()); time.sleep(600)")
    launched.wait_for_ranks()
    launched.process.send_signal(signal.SIGTERM)
    assert launched.end()[:2] == (143, "143 True None")


def test_a_killed_launcher_leaves_no_rank(launch):
    launched = launch("put(f'ready-{rank}', os.getpid()); time.sleep(600)")
    ranks = launched.wait_for_ranks()
    assert all(map(is_alive, ranks))
    launched.process.kill()
    poll(lambda: not any(map(is_alive, ranks)))


def test_ranks_of_a_killed_launcher_can_still_save(launch, log_dir: Path):
    launched = launch(STEPS_UNTIL_STOPPED)
    launched.wait_for_ranks()
    launched.process.kill()
    poll(lambda: (log_dir / "saved-0").exists() and (log_dir / "saved-1").exists())


def test_a_rank_does_not_start_when_its_launcher_has_already_died(tmp_path: Path):
    parent = subprocess.Popen(["true"])
    parent.wait()
    command = [sys.executable, rank_exec.__file__, str(parent.pid), "touch", tmp_path / "started"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and "launcher has died" in ended.stderr
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("own_session", [False, True], ids=["in its group", "in its own session"])
@pytest.mark.parametrize("end", ["pass", "sys.exit(1)"], ids=["after success", "after failure"])
def test_a_child_process_of_a_rank_does_not_survive_the_job(
    make_launch: Callable[..., LocalLaunch], log_dir: Path, own_session: bool, end: str
):
    body = f"""
        child = subprocess.Popen(["sleep", "600"], start_new_session={own_session})
        put(f"child-{{rank}}", child.pid)
        {end}
    """
    run_local(make_launch(body))
    childs = [int(path.read_text()) for path in log_dir.glob("child-*")]
    assert childs and not any(map(is_alive, childs))


def test_processes_started_before_the_job_survive_it(make_launch):
    unrelated = subprocess.Popen(["sleep", "600"])
    try:
        run_local(make_launch("pass"))
        assert unrelated.poll() is None
    finally:
        unrelated.kill()
        unrelated.wait()


def test_signal_handlers_are_restored(make_launch):
    before = signal.getsignal(signal.SIGINT)
    run_local(make_launch("pass", processes=1))
    assert signal.getsignal(signal.SIGINT) is before


def test_each_rank_has_its_own_session(make_launch, log_dir: Path):
    run_local(make_launch("put(f'session-{rank}', os.getsid(0))"))
    sessions = {int((log_dir / f"session-{rank}").read_text()) for rank in (0, 1)}
    assert len(sessions) == 2 and os.getsid(0) not in sessions


def test_a_program_that_does_not_exist_is_refused_before_anything_starts(log_dir: Path):
    with pytest.raises(ValueError, match="no such program"):
        LocalLaunch(("no-such-program-here",), 1, log_dir)


def test_a_job_without_processes_is_refused(log_dir: Path):
    with pytest.raises(ValueError, match="at least one process"):
        LocalLaunch((sys.executable,), 0, log_dir)


def test_a_job_without_threads_is_refused(log_dir: Path):
    with pytest.raises(ValueError, match="give at least 1"):
        LocalLaunch((sys.executable,), 1, log_dir, threads_per_process=0)
