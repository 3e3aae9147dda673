"""A run on a real SLURM does not get a node again that failed, though SLURM would use it."""

from pathlib import Path

import pytest

from tests.slurm.cluster import SlurmCluster
from tests.slurm.cluster_runs import ClusterRun
from tests.slurm.faults import TEST_SECONDS, WAIT_SECONDS, fault_config, kinds
from tests.slurm.processes import command_of, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TEST_SECONDS)]


@pytest.mark.parametrize(("nodes", "gets_it"), [(2, False), (4, True)])
def test_a_requeued_job_avoids_the_node_that_it_lost_if_it_can(
    cluster: SlurmCluster, corpus: Path, tmp_path: Path, nodes: int, gets_it: bool
) -> None:
    config = fault_config(corpus, tmp_path / "runs", train={"micro_batch_size": 2})
    run = ClusterRun(cluster, config, tmp_path, nodes=nodes)
    run.launch()
    run.wait_for_step(15, timeout=WAIT_SECONDS)
    # Only the agent dies: SLURM sees a healthy node, and would choose it again.
    (agent,) = [
        each for each in cluster.node_processes("n2") if "launcher.agent" in command_of(each)
    ]
    agent.kill()
    wait_until(lambda: len(run.events("job_start")) == 2, WAIT_SECONDS, run.describe)
    assert ("n2" in run.events("job_start")[1]["nodes"]) is gets_it, run.describe()
    run.wait_end(timeout=WAIT_SECONDS)
    assert kinds(run) == ["node_lost", "finished"]
    assert run.events("decision")[0]["excluded"] == ["n2"]
