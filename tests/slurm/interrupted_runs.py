"""Runs that are interrupted on the cluster of the tests, and the same runs without interruption."""

import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bigtrain.config import RunConfig
from bigtrain.track.metrics_file import read_metrics
from tests.runs import tiny_config
from tests.slurm.cluster_runs import ClusterRun, check_same_end
from tests.slurm.processes import command_of, wait_until

logger = logging.getLogger(__name__)

STEPS = 600
WAIT_SECONDS = 600.0
"""Limit for one start, save or end; much shorter on a machine that has nothing else to do."""
WARNING_LOG = re.compile(r"^(?P<time>\S+ \S+) WARNING .*: the ranks save and stop$", re.MULTILINE)


def long_config(
    corpus: Path, runs: Path, *, steps: int = STEPS, micro_batch_size: int = 4, **more: Any
) -> RunConfig:
    """A run of many short steps that saves only at its end, or when it is stopped.

    The data ranks are two.
    """
    values = {
        "train": {"steps": steps, "micro_batch_size": micro_batch_size, "log_every": 1},
        "validation": {"every": steps},
        "checkpoint": {"every": 10 * steps},
        "optim": {"learning_rate": 5e-4, "warmup_steps": 2},
    }
    return tiny_config(corpus, runs, **{**values, **more})


def check_finished_without_repeats(run: ClusterRun, uninterrupted: RunConfig) -> None:
    """The run finished as the uninterrupted one did, and no step was taken twice."""
    assert run.status()["state"] == "finished", run.describe()
    steps = [line["step"] for line in read_metrics(run.folder / "metrics.jsonl", "train")]
    assert steps == list(range(1, run.config.train.steps + 1))
    check_same_end(run, uninterrupted)


def check_saved(run: ClusterRun, *, cause: str, number: int = -1) -> int:
    """An attempt saved all that it trained before it was stopped; returns the step."""
    end = run.events("attempt_end")[number]
    assert end["kind"] == "stopped" and end["stop_cause"] == cause, run.describe()
    assert end["saved_step"] == end["last_step"], run.describe()
    return int(end["saved_step"])


def wait_for_progress(run: ClusterRun, steps: int = 15) -> int:
    """Waits until the run has taken some steps more than before; returns the step."""
    goal = max(run.losses(), default=0) + steps
    run.wait_for_step(goal, timeout=WAIT_SECONDS)
    return goal


def wait_for_event(run: ClusterRun, name: str, count: int) -> dict[str, Any]:
    """Waits until ``attempts.jsonl`` has so many events of a kind; returns the newest."""
    wait_until(lambda: len(run.events(name)) >= count, WAIT_SECONDS, run.describe)
    assert len(run.events(name)) == count, run.describe()
    return run.events(name)[-1]


def wait_for_output(run: ClusterRun, text: str, count: int = 1) -> None:
    """Waits until the batch script has written a text so many times."""
    wait_until(lambda: run.output().count(text) >= count, WAIT_SECONDS, run.describe)


def warn(run: ClusterRun) -> None:
    """Sends the signal that SLURM sends before the time limit."""
    run.cluster.run("scancel", "--batch", "--signal=USR2", run.job)


def supervisor_of(run: ClusterRun) -> psutil.Process:
    """The process that supervises the run."""
    found = [each for each in run.cluster.processes() if "supervise" in command_of(each)]
    (process,) = [each for each in found if str(run.folder) in command_of(each)]
    return process


def until_state(run: ClusterRun, state: str) -> Callable[[], bool]:
    """Whether a phase of a rank or the supervisor's state, as ``supervisor.json`` says."""
    file = run.folder / "supervisor.json"
    return lambda: file.exists() and f'"{state}"' in file.read_text()


def restarts(run: ClusterRun, job: str | None = None) -> int:
    """How often SLURM has queued a job again."""
    return int(run.cluster.details(job or run.job)["Restarts"])


def log_figures(run: ClusterRun) -> None:
    """Logs seconds from each warning to the saved state, and from each requeue to the next step."""
    warned = [
        datetime.strptime(found["time"], "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()
        for found in WARNING_LOG.finditer(run.output())
    ]
    saved = [_seconds(end["time"]) for end in run.events("end") if end["state"] == "stopped"]
    requeued = [_seconds(e["time"]) for e in run.events("job_end") if e["state"] == "requeued"]
    stepped: dict[int, float] = {}
    for line in read_metrics(run.folder / "metrics.jsonl", "train"):
        stepped.setdefault(line["attempt"], line["time"])
    to_saved = [f"{b - a:.1f}" for a, b in zip(warned, saved, strict=False)]
    to_step = [
        f"{min((t for t in stepped.values() if t > queued), default=queued) - queued:.1f}"
        for queued in requeued
    ]
    logger.info("warning to saved: %s s; requeue to next step: %s s", to_saved, to_step)


def _seconds(time: str | float) -> float:
    if isinstance(time, float):
        return time
    return datetime.fromisoformat(time).astimezone(UTC).timestamp()
