"""A run on a real SLURM with a fault every minute or two, chosen at random, until it finishes."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bigtrain.config import RunConfig
from tests.slurm.cluster import SlurmCluster
from tests.slurm.cluster_runs import ClusterRun, check_same_end, train_locally
from tests.slurm.faults import WAIT_SECONDS, fault_config, run_before, start_seconds
from tests.slurm.processes import wait_until

SECONDS_BETWEEN_FAULTS = {"short": 30.0, "hour": 120.0}
STEPS = {"short": 1500, "hour": 5000}
SECONDS_LONGER = {"short": 0.1, "hour": 0.5}
"""How much longer a step of the run takes than one of the uninterrupted run, which it is compared
with afterwards, and which would otherwise take most of an hour as well."""
LONGER_STEPS = """
    import time
    from bigtrain.environment import quiet_foreign_libraries
    quiet_foreign_libraries()
    from bigtrain.train.trainer import Trainer
    plain = Trainer._forward_step
    def forward_step(self, step, batch):
        time.sleep({seconds})
        return plain(self, step, batch)
    Trainer._forward_step = forward_step
"""
PROFILE: dict[str, Any] = {"spares": 1, "hang_seconds": 10, "time": "3:00:00"}
Fault = Callable[["Soak"], None]


class Soak:
    """A run, and the faults that are made in it."""

    def __init__(self, run: ClusterRun, seed: int) -> None:
        self.run, self.chance = run, random.Random(seed)
        self.made: list[str] = []

    @property
    def has_ended(self) -> bool:
        """Whether the last job has ended for good; known also while the controller is down."""
        ends = self.run.events("job_end")
        return bool(ends) and ends[-1]["state"] != "requeued"

    def make_fault(self, fault: Fault) -> None:
        """Makes a fault while the ranks train, and waits until the run has saved after it."""
        self.made.append(fault.__name__)
        fault(self)
        self.wait_for_save()

    def wait_for_save(self) -> None:
        """Waits until the run has a newer checkpoint, or has ended."""
        before = self._newest_checkpoint()
        wait_until(
            lambda: self.has_ended or self._newest_checkpoint() > before,
            WAIT_SECONDS,
            self.run.describe,
        )

    def attempts(self) -> int:
        """How many attempts have begun."""
        return len(self.run.events("start"))

    def wait_for_attempt(self, before: int) -> None:
        """Waits for an attempt after number ``before``, or for the end."""
        wait_until(
            lambda: self.has_ended or self.attempts() > before, WAIT_SECONDS, self.run.describe
        )

    def _newest_checkpoint(self) -> str:
        names = (path.name for path in (self.run.folder / "checkpoints").glob("step-*"))
        return max((name for name in names if name.removeprefix("step-").isdigit()), default="")


def kill_a_rank(soak: Soak) -> None:
    """Kills a rank."""
    _signal_a_rank(soak, signal.SIGKILL)


def stop_a_rank(soak: Soak) -> None:
    """Stops a rank, so that the others wait for it."""
    _signal_a_rank(soak, signal.SIGSTOP)


def kill_a_node(soak: Soak) -> None:
    """Kills a node, repairs it, and puts the run back on all nodes."""
    cluster, before = soak.run.cluster, soak.attempts()
    ranks = soak.run.ranks()
    if not ranks:
        return
    node = soak.run.node_of(soak.chance.choice(sorted(ranks)))
    cluster.kill_node(node)
    soak.wait_for_attempt(before)
    soak.wait_for_save()
    cluster.restart_node(node)
    (soak.run.folder.parent / "excluded-nodes.json").unlink(missing_ok=True)
    requeue(soak)


def requeue(soak: Soak) -> None:
    """Lets the job save and go through the queue again."""
    before = soak.attempts()
    done = soak.run.bigtrain("requeue", str(soak.run.folder), check=False)
    assert done.returncode == 0 or soak.has_ended, done.stderr
    soak.wait_for_attempt(before)


def restart_the_controller(soak: Soak) -> None:
    """Restarts SLURM's controller; the run goes on."""
    soak.run.cluster.stop_controller()
    soak.wait_for_save()
    soak.run.cluster.start_controller()


FAULTS: tuple[Fault, ...] = (
    kill_a_rank,
    stop_a_rank,
    kill_a_node,
    requeue,
    restart_the_controller,
)


def _signal_a_rank(soak: Soak, number: signal.Signals) -> None:
    before, ranks = soak.attempts(), soak.run.ranks()
    if not ranks:
        return
    ranks[soak.chance.choice(sorted(ranks))].send_signal(number)
    soak.wait_for_attempt(before)


def _soak_config(corpus: Path, runs: Path, steps: int) -> RunConfig:
    train = {"steps": steps, "global_batch_size": 16, "micro_batch_size": 4}
    checkpoint = {"every": 20, "keep_last": 3}
    return fault_config(
        corpus, runs, train=train, checkpoint=checkpoint, validation={"every": steps}
    )


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("length", ["short", pytest.param("hour", marks=pytest.mark.soak)])
def test_a_run_with_faults_at_random_ends_as_one_without(
    cluster: SlurmCluster,
    corpus: Path,
    tmp_path: Path,
    temporary: Path,
    soak_report: list[str],
    length: str,
) -> None:
    config = _soak_config(corpus, tmp_path / "runs", STEPS[length])
    (tmp_path / "code").mkdir()
    longer = LONGER_STEPS.format(seconds=SECONDS_LONGER[length])
    environment = {"TMPDIR": temporary, **run_before("train-rank", tmp_path / "code", longer)}
    run = ClusterRun(cluster, config, tmp_path, nodes=2, profile=PROFILE, environment=environment)
    run.launch()
    run.wait_for_step(25, timeout=WAIT_SECONDS)
    soak = Soak(run, seed=len(length))
    remaining: list[Fault] = []
    while not soak.has_ended:
        began = time.monotonic()
        if not remaining:
            # Every kind comes before any comes again.
            remaining = soak.chance.sample(FAULTS, len(FAULTS))
        soak.make_fault(remaining.pop())
        left = SECONDS_BETWEEN_FAULTS[length] - (time.monotonic() - began)
        ends = time.monotonic() + left
        while time.monotonic() < ends and not soak.has_ended:
            time.sleep(0.5)
    run.wait_end(timeout=WAIT_SECONDS)
    told = run.bigtrain("status", str(run.folder), "--exact").stdout
    soak_report.extend(
        [
            f"{len(soak.made)} faults: {', '.join(soak.made)}",
            f"attempts: {soak.attempts()}; the first start took {start_seconds(run):.0f} s",
            told[told.index("goodput") :],
        ]
    )
    assert set(soak.made) == {fault.__name__ for fault in FAULTS}
    check_same_end(run, train_locally(config, 2, tmp_path / "uninterrupted"))
