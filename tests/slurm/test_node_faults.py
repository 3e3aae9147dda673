"""Runs on a real SLURM that lose nodes, the first one too, or the controller, or get a bad one."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bigtrain.config import RunConfig
from tests.slurm.cluster import SlurmCluster
from tests.slurm.cluster_runs import check_same_end, losses_of, train_locally
from tests.slurm.faults import (
    TEST_SECONDS,
    WAIT_SECONDS,
    Launch,
    RecoveryTable,
    fault_config,
    kinds,
    run_before,
    wait_for_recovery,
)
from tests.slurm.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TEST_SECONDS)]
NODE_GOAL = 45.0
SAME_LOSS = 1e-6
ELASTIC_STEPS = 200
GENTLE = {"learning_rate": 3e-4}
"""With ten times as much, this tiny model turns a rounding error of the weights into 1e-3 of the
loss by step 52, also in one process (`bigtrain parity` measures it)."""


@pytest.mark.parametrize(
    ("fault", "lose"),
    [
        ("a node is killed; a spare replaces it", SlurmCluster.kill_node),
        ("a node says nothing any more; a spare replaces it", SlurmCluster.freeze_node),
    ],
    ids=["killed", "silent"],
)
def test_a_lost_node_is_replaced_by_the_spare(
    launch: Launch,
    uninterrupted: RunConfig,
    recovery_table: RecoveryTable,
    fault: str,
    lose: Callable[[SlurmCluster, str], None],
) -> None:
    run = launch(spares=1)
    died = time.time()
    lose(run.cluster, "n2")
    recovery_table.add(fault, run, wait_for_recovery(run, died), NODE_GOAL)
    run.cluster.kill_node("n2")  # What a silent node runs is no leftover of the job.
    run.wait_end(timeout=WAIT_SECONDS)
    assert kinds(run) == ["node_lost", "finished"]
    assert run.events("attempt_end")[0]["nodes"] == ["n2"]
    assert run.events("decision")[0]["nodes"] == ["n1", "n3"]
    assert len(run.events("job_start")) == 1
    check_same_end(run, uninterrupted)


@pytest.mark.parametrize(("batch", "left"), [(12, 3), (8, 2)])
def test_an_elastic_run_continues_on_fewer_nodes_and_later_on_all(
    launch: Launch,
    corpus: Path,
    tmp_path: Path,
    recovery_table: RecoveryTable,
    batch: int,
    left: int,
) -> None:
    train = {"steps": ELASTIC_STEPS, "global_batch_size": batch, "micro_batch_size": 1}
    config = fault_config(corpus, tmp_path / "runs", train=train, optim=GENTLE)
    run = launch(config, nodes=4, elastic=True)
    died = time.time()
    run.cluster.kill_node("n4")
    fault = f"a node is killed; the run continues on {left} of 4 nodes"
    recovery_table.add(fault, run, wait_for_recovery(run, died), NODE_GOAL)
    decision = run.events("decision")[0]
    assert decision["nodes"] == ["n1", "n2", "n3"][:left] and decision["world_size"] == left
    assert len(run.events("job_start")) == 1
    run.cluster.restart_node("n4")
    run.wait_for_step(30, timeout=WAIT_SECONDS)
    run.bigtrain("requeue", str(run.folder))
    wait_until(lambda: len(run.events("job_start")) == 2, WAIT_SECONDS, run.describe)
    run.wait_end(timeout=WAIT_SECONDS)
    assert [start["world_size"] for start in run.events("start")] == [4, left, 4]
    assert kinds(run) == ["node_lost", "stopped", "finished"]
    assert run.events("job_end")[0]["reason"].startswith("stopped by the user's request to requeue")
    expected = losses_of(train_locally(config, 4, tmp_path / "uninterrupted"))
    assert run.losses() == pytest.approx(expected, rel=SAME_LOSS)


def test_a_run_whose_batch_host_is_lost_continues_in_the_queue(
    launch: Launch, uninterrupted: RunConfig, recovery_table: RecoveryTable
) -> None:
    run = launch()
    died = time.time()
    run.cluster.kill_node("n1")
    fault = "the batch host is killed; the job is queued again"
    recovery_table.add(fault, run, wait_for_recovery(run, died), None)
    run.wait_end(timeout=WAIT_SECONDS)
    assert len(run.events("job_start")) == 2
    assert "n1" not in run.events("job_start")[1]["nodes"]
    check_same_end(run, uninterrupted)


def test_a_run_that_is_not_to_be_requeued_ends_when_its_batch_host_is_lost(launch: Launch) -> None:
    run = launch(restart="none")
    run.cluster.kill_node("n1")
    wait_until(lambda: not run.cluster.alive_jobs(), 120, run.describe)
    assert not run.ranks()
    told = run.bigtrain("status", str(run.folder)).stdout
    assert "bigtrain requeue" in told, told


def test_a_run_does_not_need_the_controller_and_status_says_that_it_is_down(
    launch: Launch, uninterrupted: RunConfig
) -> None:
    run = launch()
    run.cluster.stop_controller()
    reached = max(run.losses())
    run.wait_for_step(reached + 20, timeout=WAIT_SECONDS)
    told = run.bigtrain("status", str(run.folder)).stdout
    run.cluster.start_controller()
    assert "SLURM's controller is down" in told and "running, step" in told, told
    run.wait_end(timeout=WAIT_SECONDS)
    assert kinds(run) == ["finished"]
    assert len(run.events("start")) == 1
    check_same_end(run, uninterrupted)


OTHER_NUMPY = """
if os.environ["SLURMD_NODENAME"] == "n2":
    sys.path.insert(0, os.path.dirname(__file__) + "/n2")
"""
WRONG_CLOCK = """
if os.environ["SLURMD_NODENAME"] == "n2":
    import time
    right = time.time
    time.time = lambda: right() + 3600
"""


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        pytest.param(OTHER_NUMPY, "versions: other versions (numpy 0.0.7 instead of", id="numpy"),
        pytest.param(WRONG_CLOCK, "clock: 3600.0 s ahead", id="clock"),
    ],
)
def test_a_bad_node_is_named_replaced_by_the_spare_and_remembered(
    launch: Launch, tmp_path: Path, code: str, reason: str
) -> None:
    package = tmp_path / "code/n2/numpy-0.0.7.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.0.7\n")
    environment = run_before("launcher.agent", tmp_path / "code", code)
    run = launch(step=1, preflight=True, spares=1, environment=environment)
    bad, decision = run.events("attempt_end")[0], run.events("decision")[0]
    assert (bad["kind"], bad["nodes"]) == ("bad_nodes", ["n2"])
    assert reason in bad["message"]
    assert (decision["nodes"], decision["excluded"]) == (["n1", "n3"], ["n2"])
    assert f"n2: {reason}" in run.output()
    remembered = json.loads((run.folder.parent / "excluded-nodes.json").read_text())
    assert list(remembered) == ["n2"] and reason in remembered["n2"]["reason"]
    run.bigtrain("stop", str(run.folder))
    run.wait_end("stopped", timeout=WAIT_SECONDS)
    assert "#SBATCH --exclude=n2" in run.launch("--dry-run", "name=other").stdout
