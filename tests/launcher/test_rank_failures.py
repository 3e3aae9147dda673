"""The first of several rank failures is named in one line."""

from pathlib import Path

import pytest

from launcher.failures import (
    ErrorReport,
    RankEnd,
    RankFailure,
    find_first_failure,
    load_error_report,
    load_last_line,
    render_failure,
)

LOST_PEER = "RuntimeError: [gloo/transport/tcp/pair.cc:534] Connection closed by peer"


def end(rank, code, time, *, report=None, reported=None, signalled=False, last_line=None):
    log = Path(f"rank-{rank}.log") if rank else None
    written = ErrorReport(report, max(code, 1), reported or time) if report else None
    return RankEnd(rank, code, time, signalled, written, last_line, log)


def test_no_rank_failed_when_all_exit_0():
    assert find_first_failure([end(0, 0, 1.0), end(1, 0, 2.0)]) is None


def test_reports_are_ordered_by_their_time_and_not_by_the_end_of_the_rank():
    slow = end(0, 1, 9.0, report="ValueError: a", reported=1.0)
    quick = end(1, 1, 3.0, report="ValueError: b", reported=2.0)
    assert find_first_failure([slow, quick]).rank == 0


def test_without_reports_the_first_to_end_failed_first():
    assert find_first_failure([end(0, 1, 2.0), end(1, 5, 1.0), end(2, 1, 3.0)]).rank == 1


def test_a_killed_rank_is_first_even_if_a_peer_reported_a_lost_connection_earlier():
    peer = end(0, 1, 2.0, report=LOST_PEER, reported=1.0)
    assert find_first_failure([peer, end(1, -9, 1.5)]).rank == 1


def test_a_killed_rank_is_first_even_if_its_end_is_noticed_a_moment_after_that_of_the_peer():
    peer = end(0, 1, 2.0, report=LOST_PEER, reported=1.9)
    assert find_first_failure([peer, end(1, -9, 2.05)]).rank == 1
    assert find_first_failure([peer, end(1, -15, 2.05, signalled=True)]).rank == 0


def test_an_abort_after_an_error_of_another_rank_is_not_first():
    cause = end(1, 1, 2.0, report="ValueError: a", reported=1.0)
    assert find_first_failure([end(0, -6, 1.5), cause]).rank == 1


def test_a_crash_after_a_reported_connection_error_is_not_first():
    lost = end(0, 1, 2.0, report="ConnectionError: the tracking server is gone", reported=1.0)
    assert find_first_failure([lost, end(1, -11, 2.5)]).rank == 0


def test_an_error_of_its_own_comes_before_a_lost_peer_although_clocks_differ():
    peer = end(0, 1, 2.0, report=LOST_PEER, reported=1.0)
    assert (
        find_first_failure([peer, end(1, 1, 2.0, report="ValueError: a", reported=1.8)]).rank == 1
    )
    assert (
        find_first_failure([peer, end(1, 1, 3.0, report="ValueError: a", reported=2.1)]).rank == 0
    )
    other = end(1, 1, 2.0, report=LOST_PEER, reported=1.8)
    assert find_first_failure([other, peer]).rank == 0


def test_ranks_that_the_launcher_ended_did_not_fail():
    assert find_first_failure([end(0, -15, 1.0, signalled=True), end(1, 0, 1.0)]) is None


def test_a_rank_that_lost_a_peer_during_a_stop_did_not_fail():
    peer = end(0, 1, 2.0, report=LOST_PEER, reported=1.2)
    assert find_first_failure([peer, end(1, -15, 1.1, signalled=True)]) is None


def test_a_failure_holds_exit_code_message_and_log():
    failure = find_first_failure([end(1, 2, 1.0, report="first line\n  second line")])
    assert failure == RankFailure(1, 2, None, "first line second line", Path("rank-1.log"))


def test_the_failure_of_a_killed_rank_names_the_signal_and_the_likely_reason():
    failure = find_first_failure([end(1, -9, 1.0)])
    assert (failure.exit_code, failure.signal_name) == (None, "SIGKILL")
    assert "memory ran out" in failure.message


def test_the_failure_of_a_crashed_rank_names_the_signal_and_its_last_log_line():
    failure = find_first_failure([end(1, -6, 1.0, last_line="terminate called")])
    assert failure.message == "killed by SIGABRT after 'terminate called'"


def test_a_long_message_is_truncated():
    assert len(find_first_failure([end(1, 1, 1.0, report="x" * 5000)]).message) < 500


def test_a_failure_renders_as_one_line_with_rank_error_and_log():
    failure = RankFailure(3, 1, None, "ValueError: no such shard.", Path("logs/rank-3.log"))
    expected = "Rank 3 failed first: ValueError: no such shard. Its log: logs/rank-3.log"
    assert render_failure(failure) == expected


def test_a_failure_of_rank_0_refers_to_the_terminal_output():
    rendered = render_failure(RankFailure(0, 1, None, "ValueError: boom", None))
    assert rendered == "Rank 0 failed first: ValueError: boom. Its output is above."


@pytest.mark.parametrize("text", ["", '{"rank": 0, "mess', "[]", '{"message": "a"}', "null"])
def test_an_invalid_error_file_is_ignored(tmp_path: Path, text: str):
    (tmp_path / "error.json").write_text(text)
    assert load_error_report(tmp_path / "error.json") is None


def test_the_last_line_skips_blank_lines_and_earlier_content(tmp_path: Path):
    log = tmp_path / "rank-1.log"
    log.write_text("old\nnew\nlast \n\n \n")
    assert load_last_line(log, start=0) == "last"
    assert load_last_line(log, start=log.stat().st_size) is None
    assert load_last_line(tmp_path / "missing", start=0) is None
