"""The cluster of the tests itself: its nodes run jobs, die, come back, and leave nothing."""

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from tests.slurm.cluster import SlurmCluster
from tests.slurm.configuration import ClusterOptions
from tests.slurm.processes import name_of, wait_until

NODES_OF_TASKS = "#!/bin/bash\nsrun --ntasks-per-node=1 bash -c 'echo node=$SLURMD_NODENAME'\n"
SLEEP_EVERYWHERE = (
    "#!/bin/bash\nsrun --no-kill --kill-on-bad-exit=0 --ntasks-per-node=1 sleep 1000\n"
)


def _sleepers(cluster: SlurmCluster) -> list[psutil.Process]:
    return [process for process in cluster.processes() if name_of(process) == "sleep"]


def test_a_job_runs_one_task_on_each_of_four_nodes(cluster: SlurmCluster, tmp_path: Path) -> None:
    output = tmp_path / "out"
    job = cluster.submit(NODES_OF_TASKS, "--nodes=4", f"--output={output}")
    assert cluster.wait_state(job, "COMPLETED", "FAILED") == "COMPLETED"
    assert sorted(output.read_text().split()) == ["node=n1", "node=n2", "node=n3", "node=n4"]


@pytest.mark.slow
def test_a_killed_node_is_down_within_its_timeout_and_comes_back(
    tmp_path: Path,
) -> None:
    output = tmp_path / "out"
    with SlurmCluster(ClusterOptions(message_timeout=2, node_timeout=3)) as cluster:
        job = cluster.submit(SLEEP_EVERYWHERE, "--nodes=4", "--no-kill", f"--output={output}")
        wait_until(lambda: len(_sleepers(cluster)) == 4, 20)
        cluster.kill_node("n3")
        assert cluster.node_processes("n3") == []
        assert output.read_text() == "", "a step daemon of the node reported an end"
        assert len(_sleepers(cluster)) == 3
        wait_until(lambda: cluster.node_states()["n3"].startswith("down"), 15)
        assert cluster.state(job) == "RUNNING"
        cluster.reset()
        assert cluster.node_states() == dict.fromkeys(cluster.nodes, "idle")


def test_a_frozen_node_is_started_again(cluster: SlurmCluster) -> None:
    job = cluster.submit(SLEEP_EVERYWHERE, "--nodes=2", "--no-kill", "--output=/dev/null")
    wait_until(lambda: len(_sleepers(cluster)) == 2, 20)
    cluster.freeze_node("n2")
    assert len(_sleepers(cluster)) == 2
    cluster.declare_down("n2")
    assert cluster.state(job) == "RUNNING"
    cluster.reset()
    assert not _sleepers(cluster)


def test_a_job_outlives_a_stopped_controller(cluster: SlurmCluster) -> None:
    job = cluster.submit("#!/bin/bash\nsleep 1000\n", "--nodes=1", "--output=/dev/null")
    cluster.wait_state(job, "RUNNING")
    cluster.stop_controller()
    assert " is DOWN" in cluster.run("scontrol", "ping", check=False).stdout
    assert len(_sleepers(cluster)) == 1
    cluster.start_controller()
    assert cluster.state(job) == "RUNNING"


def test_nothing_is_left_after_stop(tmp_path: Path) -> None:
    with SlurmCluster() as other:
        detached = "#!/bin/bash\nsetsid sleep 1000 & disown\nsrun sleep 1000\n"
        other.submit(detached, "--nodes=2", f"--output={tmp_path}/out")
        wait_until(lambda: len(_sleepers(other)) == 3, 20)
        assert len(other.leftovers()) > 7
    assert other.leftovers() == []


def test_nothing_is_left_when_the_tests_are_killed(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import json, sys, time
        from tests.slurm.cluster import SlurmCluster
        cluster = SlurmCluster()
        cluster.start()
        cluster.submit("#!/bin/bash\\nsleep 1000\\n", "--output=/dev/null")
        pids = [process.pid for process in cluster.processes()]
        print(json.dumps({"folder": str(cluster.folder), "pids": pids}), flush=True)
        time.sleep(1000)
        """
    )
    tests = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert tests.stdout is not None
    state = json.loads(tests.stdout.readline())
    tests.send_signal(signal.SIGKILL)
    tests.wait()
    assert len(state["pids"]) >= 6
    wait_until(lambda: not any(map(psutil.pid_exists, state["pids"])), 20)
    wait_until(lambda: not Path(state["folder"]).exists(), 20)
