"""The report of a hang says, for each process group, which collective waits and who is behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.agent.stacks import dump_stacks, read_collectives
from launcher.ports import find_free_port
from launcher.processes import handles_signal
from launcher.supervisor.collectives import GROUPS, render_collectives
from launcher.supervisor.hang_report import RankStacks, render_hang_report
from launcher.supervisor.hangs import Hang, SilentRank
from tests.architecture.source_tree import REPOSITORY
from tests.launcher.fake_ranks import poll

RANK = """
import sys, time
from pathlib import Path
import torch
import torch.distributed as dist
from bigtrain.health.stacks import write_stacks_on_sigquit
from bigtrain.parallel.recorded_collectives import render_recorded_collectives

rank, port, file = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=3)
pair = dist.new_group([0, 1], group_desc="tensor")
write_stacks_on_sigquit(file, rank=rank, render_collectives=render_recorded_collectives)
for _ in range(4):
    dist.all_reduce(torch.ones(2))
if rank < 2:
    dist.all_reduce(torch.ones(7), group=pair)
file.with_suffix(".ready").touch()
if rank == 2:
    time.sleep(600)
dist.all_gather([torch.ones(5, 8)] * 3, torch.ones(5, 8))
"""


@pytest.fixture
def ranks(tmp_path: Path):
    """Three ranks of gloo; rank 2 never comes to the last collective of the others."""
    port = str(find_free_port())
    files = {rank: tmp_path / f"stacks-{rank}" for rank in range(3)}
    started = [
        subprocess.Popen([sys.executable, "-c", RANK, str(rank), port, str(file)], cwd=REPOSITORY)
        for rank, file in files.items()
    ]
    try:
        yield started, files
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_the_ranks_that_wait_and_those_behind_are_named_for_each_process_group(ranks) -> None:
    started, files = ranks
    poll(lambda: all(file.with_suffix(".ready").exists() for file in files.values()), seconds=120)
    assert all(handles_signal(process.pid, 3) for process in started)
    waits = "group 0 (default_pg): ranks 0-1 wait in all_gather 5 of 5×8; behind: rank 2, newest 4"

    def render() -> list[str]:
        dump_stacks({rank: process.pid for rank, process in enumerate(started)}, files)
        return render_collectives(read_collectives(files))

    # The newest collective may not have begun when the first stacks are written.
    poll(lambda: render() == [f"  {waits}"], seconds=60)
    texts = read_collectives(files)
    stacks = [RankStacks(rank, "n1", 1, "S", "", texts[rank]) for rank in range(3)]
    silent = tuple(SilentRank(rank, "train", 41, 131) for rank in range(3))
    assert waits in render_hang_report(Hang(130, 120, silent), stacks)


def _record(newest: int, pending: dict | None, group: str = "3") -> dict:
    return {"group": group, "description": "undefined", "newest": newest, "pending": pending}


def test_different_collectives_of_one_number_and_sends_are_shown() -> None:
    reduce = {"number": 7, "name": "all_reduce", "sizes": [[4], []]}
    barrier = {"number": 7, "name": "barrier", "sizes": []}
    send = {"number": None, "name": "send 0->1", "sizes": [[2]]}
    pending = [reduce, reduce, barrier, send]
    texts = {rank: json.dumps([_record(7, each)]) for rank, each in enumerate(pending)}
    assert render_collectives(texts) == [
        "  group 3: ranks 0-1 wait in all_reduce 7 of 4, scalar; rank 2 waits in barrier 7; "
        "rank 3 waits in send 0->1 of 2"
    ]


@pytest.mark.parametrize("text", ["", "[", "[1]", '[{"group": 0}]', "null"])
def test_what_cannot_be_read_is_left_out(text: str) -> None:
    assert render_collectives({0: text, 1: json.dumps([_record(7, None)])}) == []


def test_many_groups_are_counted() -> None:
    waits = {"number": 1, "name": "barrier", "sizes": []}
    records = [_record(1, waits, group=str(number)) for number in range(GROUPS + 5)]
    *shown, last = render_collectives({0: json.dumps(records)})
    assert len(shown) == GROUPS and last == "  5 more process groups"
