"""A run on a real SLURM does not get a node again that failed, though SLURM would use it."""

from pathlib import Path

import pytest

from tests.slurm.cluster import SlurmCluster
from tests.slurm.cluster_runs import ClusterRun
from tests.slurm.faults import TEST_SECONDS, WAIT_SECONDS, fault_config, kinds
from tests.slurm.processes import command_of, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TEST_SECONDS)]


@pytest.mark.parametrize(("nodes", "second"), [(2, ["n1", "n3"]), (4, ["n1", "n2", "n3", "n4"])])
def test_a_requeued_job_avoids_the_node_that_it_lost_if_it_can(
    cluster: SlurmCluster, corpus: Path, tmp_path: Path, nodes: int, second: list[str]
) -> None:
    run = ClusterRun(cluster, fault_config(corpus, tmp_path / "runs"), tmp_path, nodes=nodes)
    run.launch()
    run.wait_for_step(15, timeout=WAIT_SECONDS)
    # Only the agent dies: SLURM sees a healthy node, and would choose it again.
    (agent,) = [
        each for each in cluster.node_processes("n2") if "launcher.agent" in command_of(each)
    ]
    agent.kill()
    wait_until(lambda: len(run.events("job_start")) == 2, WAIT_SECONDS, run.describe)
    assert run.events("job_start")[1]["nodes"] == second
    run.wait_end(timeout=WAIT_SECONDS)
    assert kinds(run) == ["node_lost", "finished"]
    assert run.events("decision")[0]["excluded"] == ["n2"]
