"""The srun command that starts the agents of a job, one task for each. Pure."""

from collections.abc import Sequence

from bigtrain.config.cluster import ClusterConfig


def tasks_per_node(cluster: ClusterConfig) -> int:
    """Tasks, and so agents, on each node: one for each rank, or one that runs torchrun."""
    return 1 if cluster.starter == "torchrun" else cluster.num_ranks_per_node


def cpus_per_task(cluster: ClusterConfig) -> int | None:
    """Cores of each task; None if the profile leaves the division of the node to the agents."""
    if cluster.cpus_per_rank is None:
        return None
    return cluster.cpus_per_rank * cluster.num_ranks_per_node // tasks_per_node(cluster)


def agent_python(cluster: ClusterConfig, default: str) -> str:
    """The Python interpreter that runs the agents and the ranks.

    Args:
        cluster: The profile of the job.
        default: The interpreter that runs the supervisor.
    """
    return cluster.container.python if cluster.container else cluster.python or default


def render_srun_command(
    cluster: ClusterConfig, *, nodes: Sequence[str] | int, agent_command: Sequence[str]
) -> list[str]:
    """Renders the command that starts one agent for each task of a job.

    Run it on the batch host. The step lasts until every agent ends; the death of an agent or of a
    node does not end the others, because the supervisor decides what happens then.

    Args:
        cluster: The profile of the job.
        nodes: How many nodes of the job get agents (with spares: all), or the names of these nodes.
        agent_command: The command of an agent. An agent finds its node and its number on the node
            in SLURMD_NODENAME and SLURM_LOCALID.
    """
    count, named = (nodes, ()) if isinstance(nodes, int) else (len(nodes), tuple(nodes))
    tasks, cpus = tasks_per_node(cluster), cpus_per_task(cluster)
    words = [
        "srun",
        f"--nodes={count}",
        f"--ntasks={count * tasks}",
        f"--ntasks-per-node={tasks}",
    ]
    if named:
        words.append(f"--nodelist={','.join(named)}")
    if cpus is not None:
        # Since SLURM 22.05 srun does not take this from sbatch. It implies --exact.
        words.append(f"--cpus-per-task={cpus}")
    words += [
        "--no-kill",  # A node that fails does not end the step on the others.
        "--kill-on-bad-exit=0",  # Nor does an agent that fails; a cluster's default may differ.
        "--wait=0",  # Nor does an agent that ends: srun would kill the others after 30 s or so.
        "--overlap",  # A step that has not been cleaned up after a restart must not block this one.
        "--export=ALL",
        "--input=none",
        "--unbuffered",
        *_binding(cluster),
        "--mpi=none",  # Agents and ranks do not use MPI, whatever the cluster's default.
        *pyxis_words(cluster),
    ]
    return [*words, *apptainer_words(cluster), *agent_command]


def _binding(cluster: ClusterConfig) -> list[str]:
    if cluster.bind_cores:
        # SLURM's default deals cores to tasks over the sockets in turn. In blocks, low ranks are on
        # the first socket, as low GPUs are.
        words = ["--cpu-bind=cores", "--distribution=block:block"]
    else:
        words = ["--cpu-bind=none"]
    if cluster.gpus_per_node:
        # NCCL copies from GPU to GPU of a node only if a rank sees both.
        words.append("--gpu-bind=none")
    return words


def pyxis_words(cluster: ClusterConfig) -> list[str]:
    """The options for srun that run a step in a container; none without pyxis."""
    container = cluster.container
    if container is None or container.runtime != "pyxis":
        return []
    words = [f"--container-image={container.image}"]
    if mounts := cluster.container_mounts:
        words.append(f"--container-mounts={','.join(mounts)}")
    return [*words, *container.arguments]


def apptainer_words(cluster: ClusterConfig) -> list[str]:
    """The words before a command that run it in a container; none without Apptainer."""
    container = cluster.container
    if container is None or container.runtime != "apptainer":
        return []
    words = ["apptainer", "exec"]
    if cluster.gpus_per_node and not {"--nv", "--rocm"} & set(container.arguments):
        words.append("--nv")
    for mount in cluster.container_mounts:
        words += ["--bind", mount]
    return [*words, *container.arguments, container.image]
