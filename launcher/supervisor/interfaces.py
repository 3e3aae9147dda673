"""What the supervisor needs from the run, the scheduler, the starter of agents and the checks.

The launcher must not import the code of runs, and tests use simple implementations.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bigtrain.config.rewind_plan import RewindPlan
from launcher.supervisor.values import RequeueResult, StopCause

if TYPE_CHECKING:
    from launcher.supervisor.node_checks import NodeChecks


class RunProgress(Protocol):
    """How far the run is, from the files of its folder."""

    @property
    def attempt(self) -> int | None:
        """Number of the newest attempt; None if there is none."""

    @property
    def attempt_step(self) -> int:
        """Steps that had been taken when the newest attempt began."""

    @property
    def step(self) -> int:
        """Step of ``status.json``; 0 if there is none."""

    @property
    def state(self) -> str:
        """State of ``status.json``; empty if there is none."""

    @property
    def saved_step(self) -> int:
        """Step of the newest complete checkpoint; 0 if there is none."""


class SupervisedRun(Protocol):
    """The run, as the supervisor sees it. The methods may wait for a disk, but not for a rank.

    Those that read or write files raise OSError if that fails, and may then be called again.
    """

    @property
    def folder(self) -> Path:
        """The run folder."""

    @property
    def log_dir(self) -> Path:
        """The folder of logs and error files, an absolute path on all nodes."""

    def is_finished(self) -> bool:
        """Whether all steps are taken, so that there is nothing to do."""

    def progress(self) -> RunProgress:
        """How far the run is."""

    def history(self) -> Sequence[Mapping[str, Any]]:
        """The events of ``attempts.jsonl`` since a person last started the run; oldest first."""

    def wait_until_free(self, seconds: float, *, is_over: Callable[[], bool]) -> None:
        """Waits until no process holds the lock of the run.

        Args:
            seconds: The longest time.
            is_over: Whether to wait no longer.
        """

    def launch_config(self) -> AbstractContextManager[tuple[str, ...]]:
        """Writes the config of an attempt, and removes it at the end of the block.

        Returns:
            The command of the ranks, which read the config.

        Raises:
            ValueError: The config cannot be read; the message is one line.
        """

    def rewind(self, plan: RewindPlan) -> str:
        """Takes the run back and skips samples; returns one line that says so.

        Raises:
            ValueError: The run cannot be rewound; the message is one line.
        """

    def append_event(self, event: Mapping[str, Any]) -> None:
        """Appends an event to ``attempts.jsonl``, with the time."""

    def record_failure(self, *, attempt: int, reason: str, rank: int | None) -> None:
        """Records why an attempt ended, if rank 0 recorded no end or not the cause.

        Rank 0 records no end if it is killed. If another rank failed first, rank 0 only records the
        lost connection to it, which is then replaced.

        Args:
            attempt: Number of the attempt.
            reason: One line.
            rank: The rank that failed first; None if no single rank did.
        """

    def write_status(self, *, state: str, reason: str) -> None:
        """Writes the final state of the run: ``held`` or ``failed``."""


class Scheduler(Protocol):
    """The job, as the scheduler sees it."""

    @property
    def job_id(self) -> str | None:
        """The id of the job; None without a scheduler."""

    @property
    def restart_count(self) -> int:
        """How often the job was queued again."""

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes of the allocation, in order."""

    @property
    def can_requeue(self) -> bool:
        """Whether the run continues in a later job."""

    async def end_time(self) -> float | None:
        """When the job's time limit ends it, in seconds since the epoch; None if unknown now."""

    async def kill_time(self) -> float | None:
        """When the scheduler kills the job after SIGTERM, in seconds since the epoch.

        Returns:
            None if nothing says that it will.
        """

    async def why_terminated(self) -> StopCause:
        """Why the scheduler sent SIGTERM to the job."""

    async def why_ending(self) -> StopCause | None:
        """Why the scheduler ends the job, even if it sent no signal; None if it does not."""

    async def begin(self) -> None:
        """Submits the successor of the job, in a chain; called once when the supervisor starts."""

    async def requeue(self) -> RequeueResult:
        """Puts the job into the queue again, or leaves the run to the successor of the job."""

    async def release(self) -> None:
        """Cancels the successor, because the run does not continue; may be called again."""

    def find_avoided(self) -> Mapping[str, str]:
        """Nodes of the job that earlier jobs found bad, with the reason."""

    def remember_excluded(self, nodes: Sequence[str], reason: str) -> None:
        """Remembers nodes that later jobs should avoid."""


class Starter(Protocol):
    """Starts the agents of all nodes."""

    @property
    def agents_per_node(self) -> int:
        """Agents on each node."""

    async def start(self, *, port: int, token: str, on_problem: Callable[[str, str], None]) -> None:
        """Starts the agents.

        Args:
            port: Where the supervisor listens.
            token: The job's token.
            on_problem: Called with a node and a message when its agents cannot start or have
                ended; the node is empty if all nodes are meant.
        """

    async def close(self, *, lets_ranks_save: bool = False) -> None:
        """Waits for a short time until the agents have ended, then ends what still runs.

        Args:
            lets_ranks_save: The agents let their ranks save before they end; waits longer.
        """


@dataclass(frozen=True, slots=True)
class PreflightResult:
    """What the checks of the nodes found."""

    bad: Mapping[str, str] = field(default_factory=dict)
    """Nodes that must not be used, with the reason."""
    refusal: str = ""
    """Why the run cannot start on any nodes, such as a corpus that has changed; else empty."""
    summary: str = ""
    """One line for the log."""


Preflight = Callable[["NodeChecks"], Awaitable[PreflightResult]]
"""Checks the nodes before the first ranks of a job start."""
