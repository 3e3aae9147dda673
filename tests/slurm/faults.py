"""What the tests of faults share: the run, how its end is checked, and the time of a recovery."""

import shutil
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from bigtrain.config import RunConfig
from bigtrain.track.metrics_file import read_metrics
from tests.runs import merge, tiny_config
from tests.slurm.cluster import SlurmCluster
from tests.slurm.cluster_runs import ClusterRun
from tests.slurm.processes import command_of, open_files_of, wait_until

STEPS = 150
WAIT_SECONDS = 300.0
"""Limit for what is not measured: the machine may be busy."""
TEST_SECONDS = 900
"""Limit for a test with a run; pytest's own is shorter."""
START_SECONDS = 15.0
"""A machine is busy if the supervisor, its agents and the ranks take longer for their start."""


Launch = Callable[..., ClusterRun]
"""Submits a run of `fault_config`; the fixture `launch` has its arguments."""


def fault_config(corpus: Path, runs: Path, **sections: Any) -> RunConfig:
    """A run of two ranks that logs every step and saves every tenth."""
    values: dict[str, Any] = {
        "train": {"steps": STEPS, "micro_batch_size": 4, "log_every": 1},
        "validation": {"every": STEPS},
        "checkpoint": {"every": 10},
    }
    return tiny_config(corpus, runs, **merge(values, sections))


def kinds(run: ClusterRun) -> list[str]:
    """How the attempts of a run ended."""
    return [end["kind"] for end in run.events("attempt_end")]


def first_step_time(run: ClusterRun, attempt: int) -> float | None:
    """When an attempt had taken its first step, in seconds since the epoch; None if not yet."""
    file = run.folder / "metrics.jsonl"
    lines = read_metrics(file, "train") if file.exists() else []
    return next((line["time"] for line in lines if line["attempt"] == attempt), None)


def start_seconds(run: ClusterRun) -> float:
    """How long the first start of a run took, from the supervisor's start to the first step."""
    began = datetime.fromisoformat(run.events("job_start")[0]["time"]).timestamp()
    step = first_step_time(run, 1)
    assert step is not None
    return step - began


def wait_for_recovery(run: ClusterRun, died: float, *, attempt: int = 2) -> float:
    """Waits for the first step of an attempt; returns the seconds from the fault to that step.

    Args:
        run: The run.
        died: When the fault was made, in seconds since the epoch.
        attempt: Number of the attempt after it.
    """
    wait_until(lambda: first_step_time(run, attempt), WAIT_SECONDS, run.describe)
    when = first_step_time(run, attempt)
    assert when is not None
    return when - died


@dataclass(slots=True)
class RecoveryTable:
    """The seconds from faults to the next step, with the goals; printed when the tests end."""

    rows: list[tuple[str, float, float | None, float]] = field(default_factory=list)

    def add(self, fault: str, run: ClusterRun, seconds: float, goal: float | None) -> None:
        """Adds a measurement, and checks it, if there is a goal.

        The goals are for a machine that does nothing else. Whether it did shows the time of the
        run's first start, which most of a recovery consists of; a busy machine proves nothing.
        """
        start = start_seconds(run)
        self.rows.append((fault, seconds, goal, start))
        assert goal is None or start > START_SECONDS or seconds < goal, (
            f"{fault}: recovered after {seconds:.1f} s; the goal is {goal:.0f} s"
        )

    def render(self) -> str:
        """The table, in Markdown."""
        lines = [
            f"| {fault} | {seconds:.1f} | {goal or '–'} | {start:.1f} |"
            for fault, seconds, goal, start in self.rows
        ]
        head = [
            "| fault | seconds to the next step | goal | the first start took |",
            "|---|---|---|---|",
        ]
        return "\n".join([*head, *lines])


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for the temporary files of a job, with a short path, since sockets are in it."""
    folder = Path(tempfile.mkdtemp(prefix="bt-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def shared_memory() -> set[str]:
    """The names in /dev/shm."""
    return {path.name for path in Path("/dev/shm").iterdir()}


def check_nothing_left(cluster: SlurmCluster, temporary: Path, shared_before: set[str]) -> None:
    """No process, socket or temporary file of a job is there, once SLURM knows no job any more."""
    wait_until(lambda: not cluster.alive_jobs(), WAIT_SECONDS)
    # A process that was killed may still be ending.
    deadline = time.monotonic() + 10
    while found := _leftovers(cluster, temporary, shared_before):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def _leftovers(cluster: SlurmCluster, temporary: Path, shared_before: set[str]) -> list[str]:
    words = ("bigtrain.cli", "launcher.agent", "torch.distributed.run", "srun")
    commands = [" ".join(command_of(process)) for process in cluster.processes()]
    found = [command for command in commands if any(word in command for word in words)]
    # torch's cache of compiled code is not the job's.
    paths = [path for path in temporary.iterdir() if not path.name.startswith("torchinductor_")]
    found += [str(path) for path in paths]
    if new := shared_memory() - shared_before:
        # Other programs use the folder as well; those that live remove their files.
        used = {Path(name).name for p in psutil.process_iter() for name in _used_by(p)}
        found += [f"/dev/shm/{name}" for name in sorted(new - used)]
    return found


def _used_by(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error, OSError):
        mapped = [each.path for each in process.memory_maps()]
        return [path for path in [*mapped, *open_files_of(process)] if "/dev/shm/" in path]
    return []


def run_before(program: str, folder: Path, code: str) -> dict[str, object]:
    """Lets the processes of a program run Python code before anything else.

    Args:
        program: A word of their command line: ``train-rank``, or ``launcher.agent``.
        folder: An empty folder for the code.
        code: It may replace functions of the program, and use `os` and `sys`.

    Returns:
        The environment for the job.
    """
    lines = ["import os, sys", f"if {program!r} in sys.orig_argv:"]
    body = textwrap.indent(textwrap.dedent(code), "    ")
    (folder / "sitecustomize.py").write_text("\n".join([*lines, body]))
    return {"PYTHONPATH": folder}
