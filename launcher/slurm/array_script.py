"""The batch script of a job that runs one command on CPUs, once or for each part. Pure text.

A part that fails is requeued, so that another node may take it. The script counts the failures
itself, in a file, because SLURM's own count of restarts includes preemptions and lost nodes.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bigtrain.config.cluster import ClusterConfig
from bigtrain.config.node_names import compress_numbers
from launcher.slurm.script_lines import (
    render_exports,
    render_modules,
    render_option,
    render_queue_options,
)
from launcher.slurm.srun import apptainer_words, pyxis_words

MAX_RETRIES = 2
"""How often a failed part is run again automatically."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayJob:
    """A job that runs a command, or an array that runs it for each part."""

    name: str
    """Names the script and the logs, such as "shard"."""
    title: str
    """What it does, in one line, for the reader of the script."""
    job_name: str
    """The name that squeue shows."""
    arguments: tuple[str, ...]
    """The words after the Python interpreter: the command and its options."""
    operands: tuple[str, ...] = ()
    """The words after the options."""
    parts: tuple[int, ...] | None = None
    """The parts that an array runs, ascending; None for one job."""
    num_parts: int = 0
    """The number of all parts; the command gets ``--task PART/NUM_PARTS``."""
    cpus: int = 1
    memory: str | None = None
    """Memory of each part in SLURM's form, such as 16G; the cluster's default when None."""
    folder: Path
    """Folder of the script, the logs and the failures; absolute."""
    work_dir: Path
    """Working folder of the command; absolute."""

    @property
    def script(self) -> Path:
        """Where the script is written."""
        return self.folder / f"{self.name}.sh"


def render_array_script(job: ArrayJob, cluster: ClusterConfig, *, python: str) -> str:
    """Renders the batch script of a job.

    Args:
        job: The job.
        cluster: The profile of the cluster; its GPUs are not requested.
        python: The interpreter, if the profile names none.
    """
    assert job.folder.is_absolute() and job.work_dir.is_absolute()
    sections = (
        _header(job),
        _resources(job, cluster),
        _job_rules(job, cluster),
        [f"#SBATCH {option}" for option in cluster.sbatch],
        _function(job, cluster, python),
        _attempts(job, requeues=cluster.restart == "requeue"),
    )
    blocks = ["\n".join(lines) for lines in map(list, sections) if lines]
    return "\n\n".join(blocks).replace("#!/bin/bash\n\n", "#!/bin/bash\n") + "\n"


def _header(job: ArrayJob) -> Iterator[str]:
    yield "#!/bin/bash"
    yield f"# {job.title}"
    yield "# Written by `bigtrain data`; the command and the profile of the cluster determine it."


def _resources(job: ArrayJob, cluster: ClusterConfig) -> Iterator[str]:
    yield render_option("job-name", job.job_name)
    if job.parts is not None:
        yield render_option("array", compress_numbers(job.parts))
    yield from render_queue_options(cluster)
    yield "#SBATCH --nodes=1"
    yield "#SBATCH --ntasks=1"
    yield render_option("cpus-per-task", job.cpus)
    if job.memory is not None:
        yield render_option("mem", job.memory)
    if cluster.time is not None:
        yield render_option("time", cluster.time)
    if cluster.exclude:
        yield render_option("exclude", ",".join(cluster.exclude))


def _job_rules(job: ArrayJob, cluster: ClusterConfig) -> Iterator[str]:
    # A part continues where it stopped, so running it again after a lost node is safe.
    yield "#SBATCH --requeue" if cluster.restart == "requeue" else "#SBATCH --no-requeue"
    number = "%j" if job.parts is None else "%A_%a"
    folder = str(job.folder).replace("%", "%%")
    yield render_option("output", f"{folder}/{job.name}-{number}.log")
    yield "#SBATCH --open-mode=append"


def _function(job: ArrayJob, cluster: ClusterConfig, python: str) -> Iterator[str]:
    yield "run_command() {"
    yield f"cd {shlex.quote(str(job.work_dir))} || exit 1"
    yield from render_modules(cluster)
    yield from render_exports(cluster.environment)
    yield from cluster.prolog
    yield _command(job, cluster, python)
    yield "}"


def _command(job: ArrayJob, cluster: ClusterConfig, python: str) -> str:
    words = [*_container(job, cluster), cluster.python or python]
    if cluster.container:
        words[-1] = cluster.container.python
    quoted = [shlex.quote(word) for word in (*words, *job.arguments)]
    if job.parts is not None:
        quoted.append(f'--task "$SLURM_ARRAY_TASK_ID/{job.num_parts}"')
    return " ".join([*quoted, *map(shlex.quote, job.operands)])


def _container(job: ArrayJob, cluster: ClusterConfig) -> list[str]:
    if cluster.container is None:
        return []
    if cluster.container.runtime == "pyxis":
        step = ["srun", "--nodes=1", "--ntasks=1", f"--cpus-per-task={job.cpus}", "--input=none"]
        return [*step, "--cpu-bind=none", "--mpi=none", *pyxis_words(cluster)]
    return apptainer_words(cluster.model_copy(update={"gpus_per_node": 0}))


def _attempts(job: ArrayJob, *, requeues: bool) -> Iterator[str]:
    is_array = job.parts is not None
    shell_id = "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" if is_array else "$SLURM_JOB_ID"
    yield f"folder={shlex.quote(str(job.folder))}"
    yield f'id="{shell_id}"'
    yield f'log="$folder/{job.name}-$id.log"'
    yield f'failures="$folder/{job.name}-$id.failures"'
    yield "while true; do"
    yield '  echo "$(date -Is) $id begins on $SLURMD_NODENAME"'
    yield "  (run_command)"
    yield "  code=$?"
    yield "  # Done, bad input, or ended by a signal of SLURM or a user: not tried again."
    yield '  case "$code" in 0 | 2 | 130 | 143) exit "$code" ;; esac'
    yield '  reason="exit code $code on $SLURMD_NODENAME: $(tail -n 1 "$log" | cut -c 1-300)"'
    yield '  echo "$(date -Is) $reason" | tee -a "$failures"'
    yield f'  if [ "$(wc -l <"$failures")" -gt {MAX_RETRIES} ]; then'
    yield '    echo "failed too often; not tried again"'
    yield '    exit "$code"'
    yield "  fi"
    if requeues:
        yield "  # Where a job may not requeue itself, the command runs again on this node."
        yield '  scontrol requeue "$id" && sleep 60 && exit "$code"'
    yield "done"
