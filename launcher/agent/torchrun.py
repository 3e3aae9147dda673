"""Starts ranks with torchrun: one torchrun on each node, which runs a wrapper for each rank.

torchrun gives its ranks one environment. The wrapper (this module, run as a program) adds
what differs: the rank's error file, its log, and the file for its stacks.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from launcher.agent.messages import Start
from launcher.environment import read_rank, set_rank_files
from launcher.failures import RankEnd, load_error_report, load_last_line
from launcher.ranks import error_file, log_file


def torchrun_command(start: Start, *, stacks_folder: Path) -> tuple[str, ...]:
    """The command that starts the ranks of a node through torchrun.

    Args:
        start: What the ranks run.
        stacks_folder: The agent's folder, for the files of their stacks.
    """
    # By default torchrun leaves a folder in /tmp at each start.
    logs = f"--log-dir={stacks_folder / 'torchrun'}"
    module = (sys.executable, "-m", "torch.distributed.run")
    wrapper = ("--no-python", sys.executable, "-m", "launcher.agent.torchrun")
    folders = (start.log_dir, str(stacks_folder))
    return (*module, *start.torchrun, logs, *wrapper, *folders, *start.command)


def stacks_file(folder: Path, rank: int) -> Path:
    """The file into which a rank writes its stacks."""
    return folder / f"stacks-{rank}.txt"


def render_torchrun_options(
    *, nodes: int, node_rank: int, ranks_per_node: int, master: tuple[str, int]
) -> tuple[str, ...]:
    """Renders the options of the torchrun of one node.

    Args:
        nodes: Nodes of the job.
        node_rank: Number of this node.
        ranks_per_node: Ranks on each node.
        master: Address and port at which the torchrun of node 0 listens.
    """
    return (
        f"--nnodes={nodes}",
        f"--node-rank={node_rank}",
        f"--nproc-per-node={ranks_per_node}",
        "--rdzv-backend=static",
        f"--rdzv-endpoint={master[0]}:{master[1]}",
        "--max-restarts=0",
    )


def load_rank_ends(torchrun: RankEnd, ranks: Sequence[int], log_dir: Path) -> list[RankEnd]:
    """The end of each rank of a torchrun that has ended.

    torchrun does not report the exit codes of its ranks. A rank that wrote an error file failed;
    if no rank did, torchrun's own end counts as that of the first.
    """
    reports = {rank: load_error_report(error_file(log_dir, rank)) for rank in ranks}
    ends = []
    for rank in ranks:
        report, log = reports[rank], log_file(log_dir, rank) if rank else None
        end = replace(torchrun, rank=rank, report=report, log=log)
        if report is not None:
            end = replace(end, code=report.exit_code)
        elif torchrun.code and (any(reports.values()) or rank != ranks[0]):
            end = replace(end, signalled=True)  # torchrun stops the others after a failure.
        if log is not None and report is None:
            end = replace(end, last_line=load_last_line(log, start=0))
        ends.append(end)
    return ends


def _become_rank(log_dir: Path, stacks_folder: Path, command: list[str]) -> None:
    rank = read_rank()
    if rank:
        # Rank 0 keeps the output of torchrun, which is that of the agent.
        log = os.open(log_file(log_dir, rank), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
    set_rank_files(error_file(log_dir, rank), stacks_file(stacks_folder, rank))
    os.execvp(command[0], command)


if __name__ == "__main__":
    _become_rank(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
