"""What the command line and the environment tell an agent."""

import argparse
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.environment import read_job_token, read_slurm_variable

GRACE_SECONDS = 120.0
"""Time that the ranks have to save after the supervisor was lost."""


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """What the command line and the environment tell an agent."""

    supervisors: tuple[tuple[str, int], ...]  # addresses and ports, tried in turn
    token: str
    node: str
    task: int
    connect_seconds: float  # limit for the connection
    grace_seconds: float  # time to save after the supervisor was lost
    ends_with_stdin: bool  # whether the end of stdin means that the supervisor is gone
    restart: str | None = None  # how the run continues after the job; None outside of SLURM
    report: Path | None = None  # supervisor.json in the run folder


def read_options(words: Sequence[str]) -> AgentOptions:
    """Reads the command line of an agent, and the variables of srun.

    Raises:
        SystemExit: An option is missing or wrong.
    """
    parser = argparse.ArgumentParser(prog="python -m launcher.agent")
    parser.add_argument("--supervisor", required=True, help="HOST:PORT[,HOST:PORT…]")
    parser.add_argument("--node", default=read_slurm_variable("NODENAME") or socket.gethostname())
    parser.add_argument("--task", type=int, default=int(read_slurm_variable("LOCALID") or 0))
    parser.add_argument("--connect-seconds", type=float, default=120)
    parser.add_argument("--grace-seconds", type=float, default=GRACE_SECONDS)
    parser.add_argument("--ends-with-stdin", action="store_true")
    parser.add_argument("--restart", choices=("requeue", "chain", "none"))
    parser.add_argument("--report", type=Path)
    given = parser.parse_args(words)
    if not (token := read_job_token()):
        parser.error("BIGTRAIN_JOB_TOKEN is not set; `bigtrain supervise` starts the agents")
    return AgentOptions(
        supervisors=tuple(_split_address(each) for each in given.supervisor.split(",")),
        token=token,
        node=given.node,
        task=given.task,
        connect_seconds=given.connect_seconds,
        grace_seconds=given.grace_seconds,
        ends_with_stdin=given.ends_with_stdin,
        restart=given.restart,
        report=given.report,
    )


def _split_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)
