"""Runs in each pod of a Job: starts the ranks of a node with torchrun, and says how they ended.

torchrun kills ranks that save for too long, and its exit code does not distinguish a run that has
taken all its steps from one that was stopped. So on SIGTERM this process asks the run to stop by
its STOP file, and at the end it reads the run's status. It never imports torch.
"""

import argparse
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from bigtrain.config import ConfigError, load_run_config
from bigtrain.config.run_files import STATUS_FILE, STOP_FILE
from launcher.kubernetes.exit_codes import STOPPED

ADDRESS_SECONDS = 900.0
"""Limit until the name of the first pod resolves; its image may have to be pulled first."""
STATUS_SECONDS = 120.0
"""Limit until the final status of the run appears on a shared disk."""
BAD_INPUT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A node of the run."""

    config: Path
    nodes: int
    node_rank: int
    processes: int
    master_addr: str
    master_port: int
    accept_change: Sequence[str] = ()


def torchrun_command(pod: Pod) -> list[str]:
    """The command that starts the ranks of a pod."""
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        f"--nnodes={pod.nodes}",
        f"--node-rank={pod.node_rank}",
        f"--nproc-per-node={pod.processes}",
        f"--master-addr={pod.master_addr}",
        f"--master-port={pod.master_port}",
        "--max-restarts=0",
        *("-m", "bigtrain.cli", "train", str(pod.config)),
        *(word for key in pod.accept_change for word in ("--accept-change", key)),
    ]


def run_ranks(command: Sequence[str], run_dir: Path) -> int:
    """Runs the ranks of a pod until they end.

    Args:
        command: Starts them.
        run_dir: The run folder.

    Returns:
        0 if the run has taken all its steps, `STOPPED` if it was stopped and saved, else the
        command's exit code.
    """
    before_start = _read_status(run_dir)
    started: list[subprocess.Popen[bytes]] = []

    def stop(number: int, _: FrameType | None) -> None:
        try:
            (run_dir / STOP_FILE).touch()
        except OSError:  # There is no run folder yet, so there is nothing to save.
            for process in started:
                process.send_signal(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        started.append(subprocess.Popen(command))
        code = started[0].wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code != 0:
        return code if code > 0 else 128 - code
    return 0 if _final_state(run_dir, before_start) == "finished" else STOPPED


def wait_for_address(name: str, seconds: float = ADDRESS_SECONDS) -> None:
    """Waits until a host name is known.

    Raises:
        ConfigError: It is not known in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.getaddrinfo(name, None)
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"the name {name} of the first pod is not known after {seconds:g} s "
                    f"({error.strerror}): check that the Service exists and the pod was started"
                ) from None
        time.sleep(1.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a pod; returns its exit code."""
    pod = _parse(arguments)
    # The first process of a container ignores signals that it does not handle.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        run_dir = load_run_config([str(pod.config)]).run_dir
        wait_for_address(pod.master_addr)
    except ConfigError as error:
        sys.stderr.write(f"bigtrain: {error}\n")
        return BAD_INPUT
    return run_ranks(torchrun_command(pod), run_dir)


def _parse(arguments: Sequence[str] | None) -> Pod:
    parser = argparse.ArgumentParser(prog="python -m launcher.kubernetes.pod")
    parser.add_argument("config", type=Path)
    for name in ("nodes", "node-rank", "processes", "master-port"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--master-addr", required=True)
    parser.add_argument("--accept-change", action="append", default=[])
    return Pod(**vars(parser.parse_args(arguments)))


def _final_state(run_dir: Path, before_start: dict[str, Any]) -> str | None:
    """The state that rank 0 has written at the end; rank 0 may be on another node."""
    deadline = time.monotonic() + STATUS_SECONDS
    while True:
        status = _read_status(run_dir)
        is_final = status != before_start and status.get("state") != "running"
        if is_final or time.monotonic() > deadline:
            return status.get("state")
        time.sleep(0.5)


def _read_status(run_dir: Path) -> dict[str, Any]:
    try:
        status = json.loads((run_dir / STATUS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


if __name__ == "__main__":
    sys.exit(main())
