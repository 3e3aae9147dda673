"""The batch script of a run, as text. Pure: the same arguments give the same bytes."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from bigtrain.config.cluster import ClusterConfig
from launcher.slurm.script_lines import (
    render_exports,
    render_modules,
    render_option,
    render_queue_options,
)
from launcher.slurm.srun import cpus_per_task, tasks_per_node

_MEMORY_OPTIONS = ("--mem=", "--mem ", "--mem-per-cpu", "--mem-per-gpu")
_LEAKED = (
    *("SLURM_CPU_BIND", "SLURM_CPU_BIND_LIST", "SLURM_CPU_BIND_TYPE", "SLURM_CPU_BIND_VERBOSE"),
    *("SLURM_MEM_BIND", "SLURM_MEM_BIND_LIST", "SLURM_MEM_BIND_TYPE", "SLURM_GPU_BIND"),
    *("SLURM_GPUS_PER_TASK", "SLURM_NTASKS_PER_GPU", "SLURM_TRES_PER_TASK"),
    *("SLURM_DISTRIBUTION", "SLURM_HINT", "SLURM_EXPORT_ENV", "SLURM_MPI_TYPE"),
)
"""Variables that srun reads as options, and that an interactive allocation leaves behind."""


def render_batch_script(
    cluster: ClusterConfig,
    *,
    name: str,
    run_dir: Path,
    nodes: int,
    python: str,
    work_dir: Path,
    excluded: Sequence[str] = (),
) -> str:
    """Renders the batch script of a run.

    Args:
        cluster: The profile of the cluster.
        name: The run's name.
        run_dir: The run folder, an absolute path.
        nodes: Nodes that get ranks; spares are added.
        python: The interpreter of the supervisor, if the profile names none.
        work_dir: The working folder of the job, an absolute path.
        excluded: Nodes to avoid, besides those that the profile excludes.
    """
    assert run_dir.is_absolute() and work_dir.is_absolute()
    sections = (
        _header(cluster, name=name, nodes=nodes),
        _resources(cluster, name=name, nodes=nodes, excluded=excluded),
        _job_rules(cluster, run_dir=run_dir, work_dir=work_dir),
        [f"#SBATCH {option}" for option in cluster.sbatch],
        _shell_rules(cluster),
        render_modules(cluster),
        _exports(cluster),
        cluster.prolog,
        _supervisor(cluster, run_dir=run_dir, python=python),
    )
    blocks = ["\n".join(lines) for lines in map(list, sections) if lines]
    return "\n\n".join(blocks).replace("#!/bin/bash\n\n", "#!/bin/bash\n") + "\n"


def _header(cluster: ClusterConfig, *, name: str, nodes: int) -> Iterator[str]:
    ranks = cluster.num_ranks_per_node
    spares = f", and {cluster.spares} spare" if cluster.spares else ""
    yield "#!/bin/bash"
    yield f"# Training run {name}: {nodes} nodes × {ranks} ranks{spares}."
    yield "# Written by `bigtrain launch`; the profile of the cluster determines every line."


def _resources(
    cluster: ClusterConfig, *, name: str, nodes: int, excluded: Sequence[str]
) -> Iterator[str]:
    yield render_option("job-name", name)
    yield from render_queue_options(cluster)
    yield render_option("nodes", nodes + cluster.spares)
    yield render_option("ntasks-per-node", tasks_per_node(cluster))
    if (cpus := cpus_per_task(cluster)) is not None:
        yield render_option("cpus-per-task", cpus)
    if cluster.gpus_per_node:
        # Per node, not per task: every rank must see all GPUs of its node.
        gpu = f"{cluster.gpu_type}:{cluster.gpus_per_node}" if cluster.gpu_type else ""
        count = gpu or str(cluster.gpus_per_node)
        gres = cluster.gpu_request == "gres"
        yield (
            render_option("gres", f"gpu:{count}") if gres else render_option("gpus-per-node", count)
        )
    if cluster.exclusive:
        yield "#SBATCH --exclusive"
    if (memory := _memory(cluster)) is not None:
        yield render_option("mem", memory)
    if cluster.time is not None:
        yield render_option("time", cluster.time)
    if avoided := tuple(dict.fromkeys((*cluster.exclude, *excluded))):
        yield render_option("exclude", ",".join(avoided))


def _memory(cluster: ClusterConfig) -> str | None:
    if cluster.memory_per_node is not None:
        return cluster.memory_per_node
    if not cluster.exclusive or any(each.startswith(_MEMORY_OPTIONS) for each in cluster.sbatch):
        return None
    return "0"  # A job with whole nodes still gets only the memory that it asks for; 0 is all.


def _job_rules(cluster: ClusterConfig, *, run_dir: Path, work_dir: Path) -> Iterator[str]:
    yield "# The run saves when this signal comes, before the time limit."
    yield render_option("signal", f"B:USR2@{cluster.warning_seconds}")
    if cluster.restart == "requeue":
        yield "# After the time limit, a preemption or the loss of nodes the run continues."
        yield "#SBATCH --requeue"
    elif cluster.restart == "chain":
        yield "# After the time limit the run continues in a job that depends on this one."
        yield "#SBATCH --no-requeue"
    else:
        yield "#SBATCH --no-requeue"
    yield "# A node that fails does not end the job: spare nodes replace it, or the run restarts."
    yield "#SBATCH --no-kill"
    yield render_option("chdir", work_dir)
    output = str(run_dir / "logs").replace("%", "%%")
    yield render_option("output", f"{output}/slurm-%j.out")
    yield "#SBATCH --open-mode=append"


def _shell_rules(cluster: ClusterConfig) -> Iterator[str]:
    yield "# The signal may come before the supervisor can handle it; it must not end this shell."
    yield "trap '' USR2"
    yield "# Options for srun that an interactive allocation may have left in the environment."
    leaked = list(_LEAKED)
    if _memory(cluster) is not None:
        leaked += ["SLURM_MEM_PER_CPU", "SLURM_MEM_PER_GPU"]  # srun refuses two kinds of memory.
    yield from _wrap("unset", leaked)
    if (cpus := cpus_per_task(cluster)) is not None:
        yield "# Since SLURM 22.05 srun takes --cpus-per-task only from this variable."
        yield f"export SRUN_CPUS_PER_TASK={cpus}"


def _exports(cluster: ClusterConfig) -> Iterator[str]:
    variables = dict(cluster.environment)
    if cluster.network_interface is not None:
        # NCCL compares the beginning of a name, unless the value begins with "=".
        defaults = {
            "NCCL_SOCKET_IFNAME": f"={cluster.network_interface}",
            "GLOO_SOCKET_IFNAME": cluster.network_interface,
        }
        variables = {**defaults, **variables}
    yield from render_exports(variables)


def _supervisor(cluster: ClusterConfig, *, run_dir: Path, python: str) -> Iterator[str]:
    yield "# The supervisor starts the ranks with srun, watches them, and restarts them."
    words = (cluster.python or python, "-m", "bigtrain.cli", "supervise", str(run_dir))
    yield f"exec {shlex.join(words)}"


def _wrap(command: str, names: Sequence[str], *, width: int = 100) -> Iterator[str]:
    """Several lines of a shell command with many arguments."""
    line = command
    for name in names:
        if len(line) + 1 + len(name) > width:
            yield line
            line = command
        line += f" {name}"
    yield line
