"""The SLURM job in which the supervisor runs: its time limit, its end, its place in the queue."""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from bigtrain.config.cluster_rules import parse_slurm_time
from launcher.environment import read_slurm_variable
from launcher.excluded_nodes import remember_excluded
from launcher.slurm import client
from launcher.slurm.errors import SlurmError, SlurmUnavailableError
from launcher.supervisor.addresses import own_addresses
from launcher.supervisor.values import StopCause

logger = logging.getLogger(__name__)

RETRY_SECONDS = 20.0
ASK_SECONDS, ASK_TIMES = 0.5, 6
REQUEUE_SECONDS = 900.0
"""How long a requeue is tried again while SLURM's controller is down."""
NEAR_LIMIT_SECONDS = 60.0
"""A SIGTERM this close to the time limit comes from the limit, if SLURM gives no other reason."""
_REQUEUED_STATES = ("PREEMPTED", "REQUEUE", "PENDING", "NODE_FAIL", "SPECIAL_EXIT")


@dataclass(slots=True)
class SlurmJob:
    """A `Scheduler` for the job of this process."""

    job_id: str
    restart_count: int
    nodes: tuple[str, ...]
    restart: Literal["requeue", "chain", "none"]
    runs_dir: Path
    run_name: str
    submit_successor: Callable[[str], str] | None = None
    """For a chain: submits the job that follows the one with this id, and returns its id."""
    cancel_successors: Callable[[str], Sequence[str]] | None = None
    """Cancels the jobs of the run that wait in the queue, besides the one with this id."""
    _successor: str | None = None

    @property
    def can_requeue(self) -> bool:
        """Whether the run continues in a later job."""
        return self.restart == "requeue" or (self.restart == "chain" and bool(self._successor))

    async def end_time(self) -> float | None:
        """When the time limit ends the job; waits while SLURM's controller does not answer."""
        while True:
            try:
                fields = await asyncio.to_thread(client.show_job, self.job_id)
                return parse_moment(fields.get("EndTime", ""))
            except SlurmUnavailableError:
                await asyncio.sleep(RETRY_SECONDS)
            except SlurmError as error:
                logger.warning("the end of job %s is not known: %s", self.job_id, error)
                return None

    async def why_terminated(self) -> StopCause:
        """Why SLURM sent SIGTERM: a preemption or a requeue, the time limit, or the user."""
        problem: SlurmError | None = None
        for _ in range(ASK_TIMES):
            # SLURM signals all processes of the batch step, and so scontrol, too: ask later.
            await asyncio.sleep(ASK_SECONDS)
            try:
                fields = await asyncio.to_thread(client.show_job, self.job_id)
            except SlurmError as error:
                problem = error
            else:
                now = time.time()
                return find_stop_cause(fields, restart_count=self.restart_count, now=now)
        logger.warning("SIGTERM counts as a cancel by the user: %s", problem)
        return StopCause.USER

    async def begin(self) -> None:
        """Submits the successor of the job, in a chain."""
        if self.restart == "chain" and self.submit_successor is not None:
            try:
                self._successor = await asyncio.to_thread(self.submit_successor, self.job_id)
                logger.info("job %s follows when this one ends", self._successor)
            except (SlurmError, OSError) as error:
                logger.error("no successor was submitted: %s", error)

    async def requeue(self) -> bool:
        """Requeues the job; SLURM then ends this process. A chain's successor waits already.

        SLURM lets a requeued job wait for two minutes. It is not started before: a late report of
        its old end would end it again.

        Returns:
            Whether the run continues: not if the user has cancelled the job in the meantime, or if
            SLURM's controller stays down.
        """
        if self.restart != "requeue":
            return self.can_requeue
        deadline = time.monotonic() + REQUEUE_SECONDS
        while True:
            try:
                if await self._is_cancelled():
                    # SLURM would queue it all the same.
                    logger.warning("the user has cancelled the job: it is not queued again")
                    return False
                await asyncio.to_thread(client.requeue_job, self.job_id)
                return True
            except SlurmUnavailableError as error:
                if time.monotonic() > deadline:
                    logger.error("the job was not queued again: %s", error)
                    return False
                logger.warning(
                    "the job is not queued again yet, next try in %.0f s: %s", RETRY_SECONDS, error
                )
                await asyncio.sleep(RETRY_SECONDS)
            except SlurmError as error:
                # After a preemption SLURM has queued it itself.
                logger.info("requeue: %s", error)
                return True

    async def _is_cancelled(self) -> bool:
        """Whether the job ends because the user wanted it.

        Raises:
            SlurmUnavailableError: SLURM's controller does not answer.
        """
        try:
            fields = await asyncio.to_thread(client.show_job, self.job_id)
        except SlurmUnavailableError:
            raise
        except SlurmError:
            return False
        cause = find_stop_cause(fields, restart_count=self.restart_count, now=time.time())
        is_ending = fields.get("JobState", "").startswith(("COMPLETING", "CANCELLED"))
        return is_ending and cause is StopCause.USER

    async def release(self) -> None:
        """Cancels the successor."""
        if self.restart != "chain" or self.cancel_successors is None:
            return
        try:
            await asyncio.to_thread(self.cancel_successors, self.job_id)
        except (SlurmError, OSError) as error:
            logger.error("the job that follows was not cancelled: %s", error)

    def remember_excluded(self, nodes: Sequence[str], reason: str) -> None:
        """Remembers nodes that later jobs avoid."""
        try:
            remember_excluded(self.runs_dir, nodes, reason=reason, run=self.run_name)
        except OSError as error:
            logger.error("the nodes to avoid were not remembered: %s", error)


def open_slurm_job(
    *,
    restart: Literal["requeue", "chain", "none"],
    runs_dir: Path,
    run_name: str,
    submit_successor: Callable[[str], str] | None = None,
    cancel_successors: Callable[[str], Sequence[str]] | None = None,
) -> SlurmJob:
    """The job in which this process runs.

    Raises:
        SlurmError: This process is not in a job, or the nodes of the job cannot be found out.
    """
    job = read_slurm_variable("JOB_ID")
    if job is None:
        raise SlurmError(
            "supervise: this is not a SLURM job (SLURM_JOB_ID is not set); submit the run with "
            "`bigtrain launch RUN.yaml --cluster PROFILE`"
        )
    nodes = client.expand_node_list(read_slurm_variable("JOB_NODELIST") or "")
    return SlurmJob(
        job_id=job,
        restart_count=int(read_slurm_variable("RESTART_COUNT") or 0),
        nodes=nodes,
        restart=restart,
        runs_dir=runs_dir,
        run_name=run_name,
        submit_successor=submit_successor,
        cancel_successors=cancel_successors,
    )


def supervisor_addresses(interface: str | None) -> list[str]:
    """Addresses at which agents may reach this machine, the most likely first.

    Args:
        interface: The network interface of the cluster profile; only its address counts then.
    """
    addresses = own_addresses(interface)
    if interface is not None:
        return addresses
    names = [_node_address(), socket.gethostname()]
    found = [name for name in names if name is not None and _is_reachable(name)]
    return list(dict.fromkeys([*found, *addresses]))


def find_stop_cause(fields: Mapping[str, str], *, restart_count: int, now: float) -> StopCause:
    """Why a job gets SIGTERM, from its fields in ``scontrol show job``. Pure.

    While the job ends, its state is COMPLETING whatever ended it, and its EndTime is the present.

    Args:
        fields: The fields by name.
        restart_count: How often this job had been queued again when it began.
        now: The present time, in seconds since the epoch.
    """
    state, restarts = fields.get("JobState", ""), fields.get("Restarts", "")
    if state.startswith("TIMEOUT") or fields.get("Reason") == "TimeLimit":
        return StopCause.TIME_LIMIT
    if fields.get("PreemptTime", "None") not in ("None", "", "Unknown", "N/A"):
        return StopCause.PREEMPTED
    if state.startswith(_REQUEUED_STATES):
        return StopCause.PREEMPTED
    if restarts.isdecimal() and int(restarts) > restart_count:
        return StopCause.PREEMPTED  # `scontrol requeue`, by an administrator or `bigtrain requeue`.
    start = parse_moment(fields.get("StartTime", ""))
    limit = _limit_seconds(fields.get("TimeLimit", ""))
    # A job that ends without that reason shortly before its limit was cancelled.
    early = 0.0 if state.startswith("COMPLETING") else NEAR_LIMIT_SECONDS
    reached = start is not None and limit is not None and now >= start + limit - early
    return StopCause.TIME_LIMIT if reached else StopCause.USER


def parse_moment(text: str) -> float | None:
    """Seconds since the epoch of a local time such as 2025-01-31T12:00:00; None if it is none."""
    with suppress(ValueError):
        return datetime.fromisoformat(text).timestamp()
    return None


def _limit_seconds(text: str) -> int | None:
    with suppress(ValueError):
        return parse_slurm_time(text)
    return None


def _node_address() -> str | None:
    node = read_slurm_variable("NODENAME")
    if node is None:
        return None
    try:
        return client.show_node(node).get("NodeAddr") or None
    except SlurmError:
        return None


def _is_reachable(name: str) -> bool:
    """Whether other machines can use a name: it resolves, and not to a loopback address."""
    try:
        return not socket.gethostbyname(name).startswith("127.")
    except OSError:
        return False
