"""The srun command that starts the agents."""

import pytest

from bigtrain.config.cluster import ClusterConfig, ContainerConfig
from launcher.slurm.srun import agent_python, render_srun_command

AGENT = ["/env/bin/python", "-m", "launcher.agent", "n1:4711"]


def test_one_task_a_rank_sees_all_gpus_and_survives_the_death_of_others() -> None:
    cluster = ClusterConfig(gpus_per_node=8, cpus_per_rank=12)
    assert render_srun_command(cluster, nodes=3, agent_command=AGENT) == [
        "srun",
        "--nodes=3",
        "--ntasks=24",
        "--ntasks-per-node=8",
        "--cpus-per-task=12",
        "--no-kill",
        "--kill-on-bad-exit=0",
        "--wait=0",
        "--overlap",
        "--export=ALL",
        "--input=none",
        "--unbuffered",
        "--cpu-bind=none",
        "--gpu-bind=none",
        "--mpi=none",
        *AGENT,
    ]


def test_torchrun_gets_one_task_a_node_with_the_cores_of_all_its_ranks() -> None:
    cluster = ClusterConfig(gpus_per_node=8, cpus_per_rank=12, starter="torchrun")
    words = render_srun_command(cluster, nodes=3, agent_command=AGENT)
    assert words[1:5] == ["--nodes=3", "--ntasks=3", "--ntasks-per-node=1", "--cpus-per-task=96"]


def test_a_profile_without_gpus_or_cores_asks_for_neither() -> None:
    words = render_srun_command(ClusterConfig(ranks_per_node=2), nodes=2, agent_command=AGENT)
    assert not [word for word in words if "gpu" in word or "cpus-per-task" in word]


def test_bound_ranks_get_neighbouring_cores_in_blocks() -> None:
    cluster = ClusterConfig(gpus_per_node=8, cpus_per_rank=12, bind_cores=True)
    words = render_srun_command(cluster, nodes=1, agent_command=AGENT)
    assert {"--cpu-bind=cores", "--distribution=block:block"} <= {*words}


def test_named_nodes_are_asked_for_by_name() -> None:
    words = render_srun_command(ClusterConfig(), nodes=["n1", "n4"], agent_command=AGENT)
    assert words[1:5] == ["--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--nodelist=n1,n4"]


@pytest.mark.parametrize("starter", ["srun", "torchrun"])
def test_no_option_binds_a_gpu_to_a_task_or_needs_an_mpi(starter: str) -> None:
    cluster = ClusterConfig(gpus_per_node=4, starter=starter)  # type: ignore[arg-type]
    text = " ".join(render_srun_command(cluster, nodes=2, agent_command=AGENT))
    assert not [
        word for word in ("--mpi=pmix", "--gpus-per-task", "--ntasks-per-gpu") if word in text
    ]


def test_pyxis_options_go_to_srun_and_the_agent_runs_with_the_python_of_the_image() -> None:
    container = ContainerConfig(
        runtime="pyxis",
        image="nvcr.io#nvidia/pytorch:25.06-py3",
        mounts=("/data", "/raw:/corpora"),
        arguments=("--no-container-mount-home",),
    )
    cluster = ClusterConfig(container=container, python="/env/bin/python")
    words = render_srun_command(cluster, nodes=2, agent_command=AGENT)
    assert words[-3 - len(AGENT) :] == [
        "--container-image=nvcr.io#nvidia/pytorch:25.06-py3",
        "--container-mounts=/data:/data,/raw:/corpora",
        "--no-container-mount-home",
        *AGENT,
    ]
    assert agent_python(cluster, "/usr/bin/python") == "python3"
    assert agent_python(ClusterConfig(), "/usr/bin/python") == "/usr/bin/python"


def test_apptainer_wraps_the_command_of_the_agent() -> None:
    container = ContainerConfig(
        runtime="apptainer",
        image="/images/big train.sif",
        mounts=("/data",),
        arguments=("--cleanenv",),
    )
    cluster = ClusterConfig(container=container, gpus_per_node=8)
    words = render_srun_command(cluster, nodes=2, agent_command=AGENT)
    start = words.index("apptainer")
    assert words[start:] == [
        *("apptainer", "exec", "--nv", "--bind", "/data:/data", "--cleanenv"),
        *("/images/big train.sif", *AGENT),
    ]
