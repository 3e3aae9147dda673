"""The job that a supervisor runs, as the cluster profile and the run's config describe it."""

from dataclasses import dataclass, field

from bigtrain.config.cluster import ClusterConfig
from launcher.supervisor.file_retries import FileRetries
from launcher.supervisor.values import RESTART_DELAYS, Policy


@dataclass(frozen=True, slots=True)
class JobSettings:
    """What the supervisor needs to know about the job."""

    cluster: ClusterConfig
    ranks_per_node: int
    world_size: int
    world_sizes: tuple[int, ...]
    """Numbers of ranks that the run's config allows, largest first."""
    rewinds: int = 0
    """`guard.rewind` of the run's config."""
    agent_connect_seconds: float = 300.0
    """Limit for the agents' first connection."""
    attempt_grace_seconds: float = 3.0
    restart_delays: tuple[float, ...] = RESTART_DELAYS
    agent_starts: int = 3
    """How often the agents are started if what starts them ends before the first attempt."""
    agent_start_pause_seconds: float = 10.0
    """Pause between two starts of the agents."""
    files: FileRetries = field(default_factory=FileRetries)

    @property
    def policy(self) -> Policy:
        """The keys that decide about restarts."""
        return Policy(
            elastic=self.cluster.elastic,
            rewinds=self.rewinds,
            restarts_without_progress=self.cluster.restarts_without_progress,
            restart_delays=self.restart_delays,
        )
