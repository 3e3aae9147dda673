"""The profile of a cluster: how jobs are submitted to it, and how runs continue there."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from bigtrain.config.cluster_rules import (
    Environment,
    Line,
    SbatchOption,
    SlurmTime,
    Word,
    find_cluster_problems,
)
from bigtrain.config.paths import HOLDS_PATHS, FolderPath
from bigtrain.config.sections import NonNegativeInt, PositiveInt, Section

_LONGEST_WARNING = 65535
"""sbatch's largest time in --signal, in seconds."""


class ContainerConfig(Section):
    """The container that the ranks run in."""

    runtime: Literal["pyxis", "apptainer"]
    """pyxis: srun's --container options; apptainer: the ranks' command is run by apptainer exec."""
    image: Line
    """The image: a file, or a name that the runtime accepts. It must contain bigtrain."""
    mounts: Annotated[tuple[str, ...], Field(strict=False), HOLDS_PATHS] = ()
    """Folders that the container sees, each HOST or HOST:CONTAINER. shared_folder is added."""
    arguments: Annotated[tuple[Line, ...], Field(strict=False)] = ()
    """More words for srun (pyxis) or apptainer exec."""
    python: Word = "python3"
    """Python interpreter inside the image, which must have this version of bigtrain."""


class ClusterConfig(Section):
    """A cluster: SLURM, or a list of hosts that are reached over ssh."""

    scheduler: Literal["slurm", "hosts"] = "slurm"
    """slurm: jobs are submitted with sbatch; hosts: the ranks are started over ssh at once."""
    relative_to: FolderPath | None = None
    """Folder that relative paths of this file start from. When not given: the working folder."""
    hosts: Annotated[tuple[Word, ...], Field(strict=False)] = ()
    """Names or addresses of the hosts (scheduler: hosts)."""
    ssh_options: Annotated[tuple[Line, ...], Field(strict=False)] = ("-o", "BatchMode=yes")
    """Words for every ssh command, before the host."""

    partition: Word | None = None
    """SLURM partition; the cluster's default when not given."""
    account: Word | None = None
    """Account that is charged."""
    qos: Word | None = None
    """Quality of service."""
    reservation: Word | None = None
    """Reservation to run in."""
    constraint: Line | None = None
    """Features that the nodes must have."""
    exclude: Annotated[tuple[Word, ...], Field(strict=False)] = ()
    """Nodes that are never used."""
    time: SlurmTime | None = None
    """Time limit of a job, in SLURM's form such as 24:00:00 or 2-00:00:00; the partition's default
    when not given."""
    exclusive: bool = True
    """Whether a job gets whole nodes. If not, cpus_per_rank must be given."""
    gpus_per_node: NonNegativeInt = 0
    """GPUs on each node; 0 for nodes without GPUs."""
    gpu_type: Word | None = None
    """Type of the GPUs in a --gres request, such as h100."""
    gpu_request: Literal["gres", "gpus_per_node"] = "gres"
    """How GPUs are requested: --gres=gpu:N or --gpus-per-node=N."""
    ranks_per_node: PositiveInt | None = None
    """Ranks on each node; gpus_per_node when not given, or 1 without GPUs."""
    cpus_per_rank: PositiveInt | None = None
    """Cores of each rank; an even share of the node's cores when not given."""
    bind_cores: bool = False
    """Whether each rank is bound to its own cores, in the order of the GPUs; needs cpus_per_rank.
    Without it a rank may use all cores of the job on its node."""
    memory_per_node: Word | None = None
    """Memory of each node in SLURM's form, such as 900G, or 0 for all of it. When not given: all of
    it for whole nodes, else the cluster's default."""

    modules: Annotated[tuple[Word, ...], Field(strict=False)] = ()
    """Modules to load before the ranks start."""
    environment: Environment = Field(default_factory=dict)
    """Environment variables of the supervisor and of all ranks. Values are not expanded; a variable
    that depends on others is exported in prolog."""
    prolog: Annotated[tuple[Line, ...], Field(strict=False)] = ()
    """Shell lines that run in the batch script, on the first node, before anything starts."""
    python: Word | None = None
    """Python interpreter on the nodes: an absolute path, or a command that modules or prolog put
    into PATH. The one that runs bigtrain launch when not given."""
    container: ContainerConfig | None = None
    """Container of the ranks; the supervisor runs outside of it."""
    network_interface: Word | None = None
    """Network interface of NCCL, gloo and the supervisor, such as ib0; found when not given."""
    shared_folder: FolderPath | None = None
    """Folder that all nodes share; runs_dir must be inside it. Not checked when not given."""
    starter: Literal["srun", "torchrun"] = "srun"
    """srun: one task for each rank; torchrun: one task for each node, which runs torchrun."""
    sbatch: Annotated[tuple[SbatchOption, ...], Field(strict=False)] = ()
    """More options for the batch script, each the text after #SBATCH. They take precedence."""

    restart: Literal["requeue", "chain", "none"] = "requeue"
    """How a run continues after a job's end. requeue: the job is put into the queue again; chain:
    each job submits one successor, which starts when the job has ended; none: the user starts the
    run again."""
    warning_seconds: Annotated[int, Field(gt=0, le=_LONGEST_WARNING)] = 300
    """Seconds before the time limit at which the run saves and stops. Allow for one step, two saves
    and a minute."""
    spares: NonNegativeInt = 0
    """Nodes allocated in addition, which replace nodes that fail."""
    elastic: bool = False
    """Whether the run continues on fewer nodes when nodes fail and no spare is left."""
    restarts_without_progress: PositiveInt = 3
    """Failed attempts in a row without a new checkpoint, after which the run is held."""
    hang_seconds: PositiveInt = 120
    """A run hangs when it takes no step for this long and for 10 times its median step."""
    start_seconds: PositiveInt = 1800
    """Limit for what takes longer than a step: the start of the ranks, loading a checkpoint, the
    first steps, a save, a validation batch."""
    preflight: bool = True
    """Whether the nodes are checked before the first ranks of a job start."""

    @property
    def num_ranks_per_node(self) -> int:
        """Ranks on each node."""
        return self.ranks_per_node or self.gpus_per_node or 1

    @property
    def container_mounts(self) -> tuple[str, ...]:
        """The mounts of the container, each HOST:CONTAINER; the shared folder is among them."""
        mounts = [*(self.container.mounts if self.container else ())]
        if self.container and self.shared_folder is not None:
            mounts.append(self.shared_folder)
        return tuple(dict.fromkeys(each if ":" in each else f"{each}:{each}" for each in mounts))

    def keys_given(self, keys: tuple[str, ...]) -> list[str]:
        """Those of ``keys`` whose value is not the default."""
        default: dict[str, Any] = {
            name: field.get_default(call_default_factory=True)
            for name, field in type(self).model_fields.items()
        }
        return [key for key in keys if getattr(self, key) != default[key]]

    @model_validator(mode="after")
    def _check(self) -> "ClusterConfig":
        problems = list(find_cluster_problems(self))
        if problems:
            raise ValueError("; ".join(problems))
        return self
