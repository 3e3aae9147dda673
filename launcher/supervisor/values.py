"""Values that the supervisor's parts exchange: how an attempt ended, and what to do next."""

from dataclasses import dataclass
from enum import StrEnum

from bigtrain.config.rewind_plan import RewindPlan

RESTART_DELAYS = (0.0, 30.0, 120.0)
"""Seconds before the first, second and later restarts without a new checkpoint. With them an outage
of a minute, such as of a file server, does not use up all restarts."""


class EndKind(StrEnum):
    """How an attempt ended."""

    FINISHED = "finished"
    """All steps are taken."""
    STOPPED = "stopped"
    """The ranks saved and stopped, because they were asked to."""
    RANK_FAILED = "rank_failed"
    """A rank raised an error, or was killed."""
    NODE_LOST = "node_lost"
    """A node no longer answers."""
    HUNG = "hung"
    """No rank took a step for too long; the supervisor killed the ranks."""
    DIVERGED = "diverged"
    """The loss guard gave up: too many updates in a row were skipped."""
    BAD_INPUT = "bad_input"
    """A rank ended with exit code 2 before any attempt of the job began: an error that the user
    has to correct."""
    FILES_UNAVAILABLE = "files_unavailable"
    """The supervisor could not read or write the run folder for some minutes."""
    BAD_NODES = "bad_nodes"
    """The preflight checks found nodes that must not be used; no rank was started."""


class StopCause(StrEnum):
    """What asked the ranks of an attempt to stop."""

    TIME_LIMIT = "time limit"
    """The job's time limit is near."""
    REQUEUE = "user's request to requeue"
    """`bigtrain requeue` of a job that runs: the run continues in a later job."""
    PREEMPTED = "preemption"
    """The scheduler takes the nodes away."""
    USER = "user"
    """`bigtrain stop` or `cancel`, a STOP file, Ctrl-C, or the scheduler's own cancel command."""


class RequeueResult(StrEnum):
    """Whether the run continues in a later job."""

    QUEUED = "queued"
    CANCELLED = "cancelled"
    """The user has cancelled the job in the meantime."""
    REFUSED = "refused"
    """The scheduler refused it, or did not answer for long; a person has to act."""


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How one attempt ended, as far as decisions need it. Kept in ``attempts.jsonl``."""

    kind: EndKind
    started_at_step: int
    """Steps that had been taken when the attempt began. For one that ended before it began,
    the step that it would have begun at: that of the newest checkpoint."""
    last_step: int
    """The newest step that the attempt completed; `started_at_step` if none."""
    saved_step: int
    """Step of the run's newest complete checkpoint after the attempt; 0 if there is none."""
    message: str = ""
    """One line: what happened."""
    stop_cause: StopCause | None = None
    """Set for `EndKind.STOPPED`."""
    rank: int | None = None
    """The rank that failed first, or that did not join a collective."""
    nodes: tuple[str, ...] = ()
    """The nodes to blame: of the failed rank, the lost nodes unless their loss has a common cause,
    or the nodes that failed a check."""
    divergence: RewindPlan | None = None
    """The rewind that the loss guard planned. Set for `EndKind.DIVERGED`, if it planned one."""
    rewound: bool = False
    """Whether the run was rewound after this attempt, by the supervisor."""

    @property
    def made_progress(self) -> bool:
        """Whether a later attempt starts from a later step than this one did."""
        return self.saved_step > self.started_at_step


class Action(StrEnum):
    """What the supervisor does after an attempt."""

    END = "end"
    """The run finished, or stopped on request: the job ends with exit code 0."""
    RESTART = "restart"
    """Start the ranks again inside the allocation."""
    REWIND = "rewind"
    """Rewind the run and skip the samples of `Decision.rewind`, then start the ranks again."""
    REQUEUE = "requeue"
    """Put the job into the queue again, or leave the run to the next job of its chain."""
    HOLD = "hold"
    """End the job with exit code 1; nothing restarts until a person asks for it."""
    FAIL = "fail"
    """End the job with exit code 2 for bad input, else 1; an automatic restart would not help."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do after an attempt, and why."""

    action: Action
    reason: str
    """One line for the user, the log and ``attempts.jsonl``."""
    nodes: tuple[str, ...] = ()
    """For RESTART and REWIND: the nodes that get ranks, in order of their ranks."""
    world_size: int = 0
    """For RESTART and REWIND: the number of ranks."""
    excluded: tuple[str, ...] = ()
    """Nodes that must not be used again, also after a requeue."""
    rewind: RewindPlan | None = None
    """For REWIND: what to skip, and the step to go back to."""
    exit_code: int = 0
    """For END, HOLD and FAIL: exit code of the job."""
    delay_seconds: float = 0.0
    """For RESTART: how long to wait before the ranks start."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What the supervisor can start ranks on."""

    nodes: tuple[str, ...]
    """Nodes of the allocation whose agents answer, in the scheduler's order, with spares, and
    without those that an earlier decision of this job excluded."""
    ranks_per_node: int
    full_world_size: int
    """Ranks of the run when no node is missing."""
    world_sizes: tuple[int, ...]
    """Numbers of ranks that the run's config allows, largest first, up to `full_world_size`."""
    can_requeue: bool
    """Whether the job can be queued again (requeue or chain)."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The keys of a cluster profile and of the run that decide about restarts."""

    elastic: bool = False
    """Whether the run may continue on fewer nodes."""
    rewinds: int = 0
    """How often the run may be rewound by itself (`guard.rewind`)."""
    restarts_without_progress: int = 3
    """Failed attempts in a row without a new checkpoint, after which the run is held."""
    restart_delays: tuple[float, ...] = RESTART_DELAYS
    """Seconds before the first, second, … restart without a new checkpoint, and before all later
    ones."""
