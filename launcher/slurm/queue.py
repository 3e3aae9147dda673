"""Asks SLURM's queue about the jobs of a run, for a few seconds at most; explains the answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.slurm.client import QueuedJob, list_queue
from launcher.slurm.errors import SlurmError
from launcher.slurm.times import parse_duration, parse_moment

ANSWER_SECONDS = 5.0
"""A controller that works answers in milliseconds; one that is down lets squeue wait for 18 s."""

WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"})
RUNNING = frozenset(
    {"CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"}
)
_REASONS = {
    "Resources": "waits until enough nodes are free",
    "Priority": "jobs with a higher priority come first",
    "Dependency": "waits for the end of another job",
    "DependencyNeverSatisfied": "the job that it depends on has failed; cancel it",
    "BeginTime": "not before its begin time",
    "JobHeldUser": "held by its user; `bigtrain requeue` releases it",
    "JobHeldAdmin": "held by an administrator",
    "job requeued in held state": "held after its requeue; `bigtrain requeue` releases it",
    "JobRequeuedHold": "held after its requeue; `bigtrain requeue` releases it",
    "launch failed requeued held": "held, because a node could not start it; `bigtrain requeue` "
    "releases it",
    "PartitionTimeLimit": "asks for more time than its partition allows",
    "PartitionNodeLimit": "asks for more nodes than its partition allows",
    "PartitionDown": "its partition is down",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved",
    "Reservation": "waits for its reservation",
}


@dataclass(frozen=True, slots=True)
class QueueAnswer:
    """The answer of SLURM's controller about the jobs of a run."""

    jobs: tuple[QueuedJob, ...] = ()
    """Those that it knows; a job is forgotten some minutes after its end."""
    problem: str | None = None
    """Why there is no answer, in one line; None if there is one."""

    @property
    def waiting(self) -> tuple[QueuedJob, ...]:
        """The jobs that have not begun."""
        return tuple(job for job in self.jobs if job.state in WAITING)

    @property
    def running(self) -> tuple[QueuedJob, ...]:
        """The jobs that have nodes."""
        return tuple(job for job in self.jobs if job.state in RUNNING)


def ask_queue(jobs: Sequence[str], *, timeout: float = ANSWER_SECONDS) -> QueueAnswer:
    """Asks about jobs. If there is no answer, `QueueAnswer.problem` says why; nothing is raised.

    Args:
        jobs: Job ids; none gives an empty answer.
        timeout: Seconds to wait.
    """
    if not jobs:
        return QueueAnswer()
    try:
        found = list_queue(jobs, timeout=timeout)
    except SlurmError as error:
        return QueueAnswer(problem=str(error))
    order = {job: index for index, job in enumerate(jobs)}
    return QueueAnswer(tuple(sorted(found, key=lambda job: order.get(job.job, len(order)))))


def is_held(job: QueuedJob) -> bool:
    """Whether a job waits until a person releases it."""
    return "held" in job.reason.lower() or job.state in {"REQUEUE_HOLD", "SPECIAL_EXIT"}


def explain_reason(reason: str) -> str:
    """SLURM's reason with a plain explanation, such as ``Priority: jobs with …``."""
    name = reason.split(",")[0].strip("()")
    if name.startswith(("QOS", "Assoc")):
        return f"{reason}: a limit of the account or QOS is reached"
    explanation = _REASONS.get(name)
    return reason if explanation is None else f"{reason}: {explanation}"


def seconds_to_limit(job: QueuedJob) -> int | None:
    """Seconds until a job reaches its time limit; None if it has none."""
    if job.time_left and not job.time_left.strip("0:-"):
        return 0  # `parse_duration` reads zero as "no limit".
    return parse_duration(job.time_left)


def seconds_of_limit(job: QueuedJob) -> int | None:
    """Seconds that a job may run in all; None if it has no limit."""
    return parse_duration(job.time_limit)


def start_time(job: QueuedJob) -> float | None:
    """When a job began or may begin, in seconds since 1970; None if that is not known."""
    return parse_moment(job.start)


def queued_time(job: QueuedJob) -> float | None:
    """When a job was submitted or requeued last, in seconds since 1970; None if not known."""
    return parse_moment(job.submitted)
