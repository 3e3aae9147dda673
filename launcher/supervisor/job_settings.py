"""The job that a supervisor runs, as the cluster profile and the run's config describe it."""

from dataclasses import dataclass

from bigtrain.config.cluster import ClusterConfig
from launcher.supervisor.values import Policy


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
    agents_seconds: float = 300.0
    """Limit for the agents' first connection."""
    attempt_grace_seconds: float = 3.0

    @property
    def policy(self) -> Policy:
        """The keys that decide about restarts."""
        return Policy(
            elastic=self.cluster.elastic,
            rewinds=self.rewinds,
            restarts_without_progress=self.cluster.restarts_without_progress,
        )
