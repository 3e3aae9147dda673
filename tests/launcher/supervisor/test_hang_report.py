"""The report of a hang, with the stacks of real ranks of torch.distributed that hang."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from launcher.supervisor.hang_report import RankStacks, blame, render_hang, render_hang_report
from launcher.supervisor.hangs import Hang, SilentRank
from launcher.supervisor.stack_text import find_location, parse_threads
from tests.architecture.source_tree import REPOSITORY

DEADLINE_SECONDS = 120
POLL_SECONDS = 0.3
FILE = "supervisor/hanging_ranks.py"
Hung = dict[str, list[RankStacks]]


@pytest.fixture(scope="module")
def hung(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hung]:
    """The stacks of four ranks for each scenario, when all of them hang."""
    folder = tmp_path_factory.mktemp("hanging")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.launcher.supervisor.hanging_ranks", str(folder)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout
    pids: dict[str, list[int]] = json.loads(process.stdout.readline())
    try:
        yield {name: _stacks_when_hung(folder, name, ranks) for name, ranks in pids.items()}
    finally:
        for pid in (pid for ranks in pids.values() for pid in ranks):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def _stacks_when_hung(folder: Path, name: str, pids: list[int]) -> list[RankStacks]:
    deadline = time.monotonic() + DEADLINE_SECONDS
    files = [folder / f"{name}-{rank}" for rank in range(len(pids))]
    _wait(lambda: all(Path(f"{file}-ready").exists() for file in files), deadline)
    before: list[RankStacks] = []
    while time.monotonic() < deadline:
        found = [_dump(rank, pid, files[rank]) for rank, pid in enumerate(pids)]
        if found == before:
            return found
        before = found
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"the ranks of {name} did not come to rest")


def _dump(rank: int, pid: int, file: Path) -> RankStacks:
    state, start = _state(pid), file.stat().st_size
    os.kill(pid, signal.SIGQUIT)
    if state == "T":
        return RankStacks(rank, f"n{rank}", pid, state, "the process is stopped")
    _wait(lambda: file.read_text()[start:].endswith("_run_module_as_main\n"), 5 + time.monotonic())
    return RankStacks(rank, f"n{rank}", pid, "S", file.read_text()[start:])


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _wait(condition: Callable[[], bool], deadline: float) -> None:
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _hang(ranks: int = 4) -> Hang:
    return Hang(130, 120, tuple(SilentRank(rank, "train", 41, 131) for rank in range(ranks)))


def test_a_rank_that_sleeps_while_the_others_reduce_did_not_join(hung: Hung) -> None:
    stacks = hung["all_reduce_without_rank_2"]
    assert blame(_hang(), stacks) == (2,)
    report = render_hang_report(_hang(), stacks)
    assert "Did not join (1 rank):\n  rank 2 on n2: in read_samples (" + FILE in report
    assert "Wait (3 ranks):\n  ranks 0-1, 3 (3) on n0, n1, n3: all_reduce, called by" in report
    assert "all_reduce_without_rank_2 (" + FILE in report
    assert "train, step 41, silent for 131 s" in report


def test_a_stopped_rank_did_not_join_a_pending_collective(hung: Hung) -> None:
    stacks = hung["pending_all_gather_without_rank_3"]
    assert blame(_hang(), stacks) == (3,)
    report = render_hang_report(_hang(), stacks)
    assert "rank 3 on n3: the process is stopped" in report
    assert "ranks 0-2 on n0, n1, n2: a pending collective, called by pending_all_gather" in report


def test_a_rank_in_another_collective_did_not_join(hung: Hung) -> None:
    stacks = hung["barrier_without_rank_1"]
    assert blame(_hang(), stacks) == (1,)
    report = render_hang_report(_hang(), stacks)
    assert "rank 1 on n1: all_reduce, called by reduce_loss (" in report
    assert "barrier, called by barrier_without_rank_1 (" in report


def test_ranks_that_receive_from_each_other_wait_for_the_one_that_does_not(hung: Hung) -> None:
    stacks = hung["receive_from_rank_0"]
    assert blame(_hang(), stacks) == (0,)
    assert "ranks 1-3 on n1, n2, n3: recv, called by" in render_hang_report(_hang(), stacks)


def test_pipeline_stages_wait_in_the_exchange_of_megatron_core(hung: Hung) -> None:
    stacks = hung["pipeline_without_rank_0"]
    assert blame(_hang(), stacks) == (0,)
    expected = "recv_forward, called by pipeline_without_rank_0 ("
    assert expected in render_hang_report(_hang(), stacks)


def test_the_hang_is_one_line_for_the_log(hung: Hung) -> None:
    line = render_hang(_hang(), hung["all_reduce_without_rank_2"])
    assert line.startswith(
        "no step for 130 s (limit 120 s); rank 2 did not join (in read_samples ("
    )
    assert "; ranks 0-1, 3 (3) wait in all_reduce, called by " in line
    assert "\n" not in line


def test_nobody_is_blamed_if_all_ranks_wait_in_the_same_place(hung: Hung) -> None:
    waiting = hung["barrier_without_rank_1"][0]
    stacks = [RankStacks(rank, "n", 1, "S", waiting.text) for rank in range(4)]
    assert blame(_hang(), stacks) == ()
    assert render_hang(_hang(), stacks).startswith(
        "no step for 130 s (limit 120 s); ranks 0-3 wait in barrier"
    )


def test_nobody_is_blamed_if_no_rank_waits(hung: Hung) -> None:
    busy = hung["all_reduce_without_rank_2"][2]
    stacks = [RankStacks(rank, "n", 1, "R", busy.text) for rank in range(4)]
    assert blame(_hang(), stacks) == ()
    assert "no rank waits in a collective" in render_hang(_hang(), stacks)
    assert "Others (4 ranks):" in render_hang_report(_hang(), stacks)


def test_stages_that_wait_in_different_exchanges_are_not_blamed(hung: Hung) -> None:
    one, other = hung["pipeline_without_rank_0"][1], hung["receive_from_rank_0"][1]
    texts = [one.text, one.text, one.text, other.text]
    stacks = [RankStacks(rank, "n", 1, "S", text) for rank, text in enumerate(texts)]
    assert blame(_hang(), stacks) == ()


def test_ranks_without_an_answer_are_blamed_before_ranks_in_another_place(hung: Hung) -> None:
    stacks = hung["all_reduce_without_rank_2"]
    assert blame(_hang(), stacks[:3]) == (3,)
    assert "rank 3: its agent does not answer" in render_hang_report(_hang(), stacks[:3])
    in_the_kernel = [*stacks[:3], RankStacks(3, "n3", 1, "D", stacks[0].text)]
    assert blame(_hang(), in_the_kernel) == (3,)


def test_the_report_of_a_thousand_ranks_fits_on_a_screen(hung: Hung) -> None:
    real = hung["all_reduce_without_rank_2"]
    stacks = [
        RankStacks(rank, f"n{rank // 8}", 1, "S", real[2 if rank % 100 == 7 else 0].text)
        for rank in range(1000)
    ]
    stacks[500] = RankStacks(500, "n62", 1, "T", "")
    started = time.perf_counter()
    report = render_hang_report(_hang(1000), stacks)
    assert time.perf_counter() - started < 5
    assert blame(_hang(1000), stacks) == (500,)
    summary = report.partition("Main thread")[0].splitlines()
    assert len(summary) < 24
    assert all(len(line) < 250 for line in summary)
    assert len(report.splitlines()) < 100


def test_the_largest_groups_are_shown_and_the_rest_is_counted(hung: Hung) -> None:
    text = hung["barrier_without_rank_1"][0].text
    stacks = [RankStacks(rank, "n", 1, "S", text) for rank in range(40)]
    steps = [41 if rank < 10 else rank for rank in range(40)]
    ranks = tuple(SilentRank(rank, "train", steps[rank], 131) for rank in range(40))
    lines = render_hang_report(Hang(130, 120, ranks), stacks).splitlines()
    assert lines[3].startswith("  ranks 0-9")
    assert sum(line.startswith("  rank") for line in lines) == 12
    assert "  19 more ranks in 19 other groups" in lines


def test_a_text_without_a_stack_has_no_place() -> None:
    assert find_location("the process has ended") is None
    assert find_location("") is None


def test_a_collective_in_a_hook_of_the_backward_pass_is_found(hung: Hung) -> None:
    collective = hung["all_reduce_without_rank_2"][0].text.replace("Current thread", "Thread")
    backward = (
        'Thread 0x1 (most recent call first):\n  File "/site-packages/torch/autograd/graph.py", '
        'line 1 in _engine_run_backward\n  File "/x.py", line 2 in <module>\n'
    )
    hook = "\n".join(collective.splitlines()[:4])
    location = find_location(f"{hook}\n\n{backward}")
    assert location is not None
    assert location.waits_in == "all_reduce"


def test_frames_of_a_mode_that_intercepts_the_calls_of_torch_are_no_callers() -> None:
    files = [
        *(
            ("torch/distributed/distributed_c10d.py", "all_reduce"),
            ("bigtrain/parallel/cpu.py", "__torch_function__"),
        ),
        *(
            ("torch/overrides.py", "handle_torch_function"),
            ("torch/distributed/distributed_c10d.py", "all_reduce"),
        ),
        *(
            ("torch/distributed/c10d_logger.py", "wrapper"),
            ("bigtrain/engine/gradient_norm.py", "global_norm"),
        ),
    ]
    frames = [f'  File "/site-packages/{file}", line 1 in {name}' for file, name in files]
    location = find_location("\n".join(["Thread 0x1 (most recent call first):", *frames]))
    assert str(location) == "all_reduce, called by global_norm (bigtrain/engine/gradient_norm.py:1)"


def test_a_checkout_called_bigtrain_is_not_taken_for_the_package() -> None:
    lines = [
        f'  File "/home/me/bigtrain/{path}", line 3 in read'
        for path in ("bigtrain/data/corpora.py", "tests/ranks/hanging.py")
    ]
    [frames] = parse_threads("\n".join(["Current thread 0x1 (most recent call first):", *lines]))
    assert [frame.file for frame in frames] == ["bigtrain/data/corpora.py", "ranks/hanging.py"]
