"""The profile of a cluster: how jobs are submitted to it, and how runs continue there."""

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from bigtrain.config.paths import FolderPath
from bigtrain.config.sections import NonNegativeInt, PositiveInt, Section

Line = Annotated[str, Field(pattern=r"^[^\n\r]*$")]
"""One line of text."""
Word = Annotated[str, Field(pattern=r"^[^\s'\"\\]+$")]
"""One word: no blanks, quotes or backslashes."""
_TIME = re.compile(r"^(?:\d+|\d+:\d{2}(?::\d{2})?|\d+-\d+(?::\d{2}){0,2})$")


class ContainerConfig(Section):
    """The container that the ranks run in."""

    runtime: Literal["pyxis", "apptainer"]
    """pyxis: srun's --container options; apptainer: the ranks' command is run by apptainer exec."""
    image: Line
    """The image: a file, or a name that the runtime accepts."""
    mounts: Annotated[tuple[Line, ...], Field(strict=False)] = ()
    """Folders that the container sees, each HOST or HOST:CONTAINER."""
    arguments: Annotated[tuple[Line, ...], Field(strict=False)] = ()
    """More words for srun (pyxis) or apptainer exec."""
    python: Line = "python3"
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
    time: str | None = None
    """Time limit of a job, in SLURM's form such as 24:00:00 or 2-00:00:00; the partition's default
    when not given."""
    exclusive: bool = True
    """Whether a job gets whole nodes."""
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
    """Memory of each node in SLURM's form, such as 900G, or 0 for all of it; all of it when not
    given and the job has whole nodes."""

    modules: Annotated[tuple[Word, ...], Field(strict=False)] = ()
    """Modules to load before the ranks start."""
    environment: dict[str, Line] = Field(default_factory=dict)
    """Environment variables of the supervisor and of all ranks."""
    prolog: Annotated[tuple[Line, ...], Field(strict=False)] = ()
    """Shell lines that run in the batch script before anything starts."""
    python: Line | None = None
    """Python interpreter on the nodes; the one that runs bigtrain launch when not given."""
    container: ContainerConfig | None = None
    """Container of the ranks; the supervisor runs outside of it."""
    network_interface: Word | None = None
    """Network interface of NCCL, gloo and the supervisor, such as ib0; found when not given."""
    shared_folder: FolderPath | None = None
    """Folder that all nodes share; runs_dir must be inside it. Not checked when not given."""
    starter: Literal["srun", "torchrun"] = "srun"
    """srun: one task for each rank; torchrun: one task for each node, which runs torchrun."""
    sbatch: Annotated[tuple[Line, ...], Field(strict=False)] = ()
    """More options for the batch script, each the text after #SBATCH."""

    restart: Literal["requeue", "chain", "none"] = "requeue"
    """How a run continues after a job's end. requeue: the job is put into the queue again; chain:
    each job submits one successor that waits for its end; none: the run waits for the user."""
    warning_seconds: PositiveInt = 300
    """How long before the time limit the run saves: at least one step, two saves and a minute."""
    spares: NonNegativeInt = 0
    """Nodes allocated in addition, which replace nodes that fail."""
    elastic: bool = False
    """Whether the run continues on fewer nodes when nodes fail and no spare is left."""
    restarts_without_progress: PositiveInt = 3
    """Failed attempts in a row without a new checkpoint, after which the run is held."""
    hang_seconds: PositiveInt = 120
    """A run hangs when it takes no step for this long and for 10 times its median step."""
    start_seconds: PositiveInt = 1800
    """Limit for the start of the ranks, for loading a checkpoint, and for the first steps."""
    preflight: bool = True
    """Whether the nodes are checked before the first ranks of a job start."""

    @property
    def num_ranks_per_node(self) -> int:
        """Ranks on each node."""
        return self.ranks_per_node or self.gpus_per_node or 1

    @model_validator(mode="after")
    def _check(self) -> "ClusterConfig":
        if self.scheduler == "hosts" and not self.hosts:
            raise ValueError("scheduler=hosts needs hosts, such as hosts: [node1, node2]")
        if self.scheduler == "slurm" and self.hosts:
            raise ValueError("hosts is for scheduler: hosts; with slurm use sbatch or exclude")
        if self.time is not None and not _TIME.match(self.time):
            raise ValueError(f"time={self.time!r}: write it as 24:00:00 or 2-00:00:00, in quotes")
        return self
