"""The SLURM job in which the supervisor runs: its time limit, its end, its place in the queue."""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from bigtrain.config.run_files import JOB_SCRIPT
from launcher.environment import read_slurm_variable
from launcher.excluded_nodes import load_excluded, remember_excluded
from launcher.slurm import client
from launcher.slurm.avoided_nodes import find_nodes_to_avoid
from launcher.slurm.errors import SlurmError, SlurmUnavailableError
from launcher.slurm.successor import Successor
from launcher.slurm.times import parse_duration, parse_moment
from launcher.supervisor.addresses import own_addresses
from launcher.supervisor.values import RequeueResult, StopCause

logger = logging.getLogger(__name__)

RETRY_SECONDS = 20.0
ASK_SECONDS, ASK_TIMES = 0.5, 6
REQUEUE_SECONDS = 900.0
"""How long a requeue is repeated while SLURM's controller is down."""
KILL_WAIT_SECONDS = 30.0
"""SLURM's default for the time between SIGTERM and SIGKILL."""
NEAR_LIMIT_SECONDS = 60.0
"""A SIGTERM this close to the time limit comes from the limit, if SLURM gives no other reason."""
_REQUEUED_STATES = ("PREEMPTED", "REQUEUE", "PENDING", "NODE_FAIL", "SPECIAL_EXIT")
_Answer = TypeVar("_Answer")


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
    _successor: Successor | None = None

    def __post_init__(self) -> None:
        submit, cancel = self.submit_successor, self.cancel_successors
        if self.restart == "chain" and submit is not None and cancel is not None:
            self._successor = Successor(self.job_id, submit, cancel)

    @property
    def can_requeue(self) -> bool:
        """Whether the run continues in a later job."""
        has_successor = self._successor is not None and self._successor.is_expected
        return self.restart == "requeue" or has_successor

    async def end_time(self) -> float | None:
        """When the time limit ends the job; None if SLURM does not say so now."""
        try:
            return find_end(await asyncio.to_thread(client.show_job, self.job_id))
        except SlurmError as error:
            logger.warning("the end of job %s is not known: %s", self.job_id, error)
            return None

    async def kill_time(self) -> float | None:
        """When SLURM kills what still runs of the job; None if it is not ending, or unknown."""
        try:
            fields = await asyncio.to_thread(client.show_job, self.job_id)
            config = await asyncio.to_thread(client.show_config)
        except SlurmError as error:
            logger.warning("when SLURM kills job %s is not known: %s", self.job_id, error)
            return None
        seconds = config.get("KillWait", "").split(" ")[0]
        wait = float(seconds) if seconds.isdecimal() else KILL_WAIT_SECONDS
        if fields.get("JobState", "").startswith("COMPLETING"):
            return time.time() + wait
        # After a preemption SLURM ends the job when its time of grace is over.
        grace_end = parse_moment(fields.get("EndTime", "")) if _is_preempted(fields) else None
        return None if grace_end is None else grace_end + wait

    async def why_terminated(self) -> StopCause:
        """Why SLURM sent SIGTERM: a preemption or a requeue, the time limit, or the user."""
        fields = await self._ask_for_fields("SIGTERM counts as a cancel by the user")
        now = time.time()
        return find_stop_cause(fields, restart_count=self.restart_count, now=now)

    async def why_ending(self) -> StopCause | None:
        """Why SLURM ends the job; None if it does not, as far as it says."""
        fields = await self._ask_for_fields("whether SLURM ends the job is not known")
        return find_end_cause(fields, restart_count=self.restart_count, now=time.time())

    async def _ask_for_fields(self, otherwise: str) -> Mapping[str, str]:
        """What SLURM says about the job; empty, with a warning, if it says nothing."""
        problem: SlurmError | None = None
        for _ in range(ASK_TIMES):
            # SLURM signals all processes of the batch step, and so scontrol, too: ask later.
            await asyncio.sleep(ASK_SECONDS)
            try:
                return await asyncio.to_thread(client.show_job, self.job_id)
            except SlurmError as error:
                problem = error
        logger.warning("%s: %s", otherwise, problem)
        return {}

    async def begin(self) -> None:
        """Submits the successor of the job, in a chain."""
        if self._successor is not None:
            await self._successor.begin()

    async def requeue(self) -> RequeueResult:
        """Requeues the job, or makes sure that its successor is in the queue.

        SLURM ends this process after a requeue, and lets the requeued job wait for two minutes.
        This time is not shortened: a node may report late that the present start of the job has
        ended, and SLURM would then end the new start.
        """
        deadline = time.monotonic() + REQUEUE_SECONDS
        while True:
            try:
                if await self._is_cancelled():
                    # SLURM would requeue even a cancelled job.
                    logger.warning("the user has cancelled the job: it is not queued again")
                    return RequeueResult.CANCELLED
                return await self._queue_again()
            except SlurmUnavailableError as error:
                if time.monotonic() > deadline:
                    logger.error("the job was not queued again: %s", error)
                    return RequeueResult.REFUSED
                logger.warning(
                    "the job is not queued again yet, next try in %.0f s: %s", RETRY_SECONDS, error
                )
                await asyncio.sleep(RETRY_SECONDS)

    async def _queue_again(self) -> RequeueResult:
        if self._successor is not None:
            is_there = await self._successor.settle()
            return RequeueResult.QUEUED if is_there else RequeueResult.REFUSED
        if self.restart != "requeue":
            return RequeueResult.REFUSED
        avoided = await self._find_nodes_to_avoid()
        try:
            await asyncio.to_thread(client.requeue_job, self.job_id)
        except SlurmUnavailableError:
            raise
        except SlurmError as error:
            if not await self._is_queued_again():
                logger.error("the job was not queued again: %s", error)
                return RequeueResult.REFUSED
            # SLURM requeued the job itself after a preemption, or its SIGTERM also ended scontrol.
            logger.info("requeue: %s", error)
        await self._exclude(avoided)
        return RequeueResult.QUEUED

    async def _is_queued_again(self) -> bool:
        fields = await self._ask_several_times(lambda: client.show_job(self.job_id))
        restarts = fields.get("Restarts", "")
        is_later = restarts.isdecimal() and int(restarts) > self.restart_count
        return is_later or fields.get("JobState", "").startswith(("PENDING", "REQUEUE"))

    async def _find_nodes_to_avoid(self) -> tuple[str, ...]:
        """The nodes that the requeued job must not get; none if its list can stay as it is."""
        script = self.runs_dir / self.run_name / JOB_SCRIPT
        try:
            nodes = await self._ask_several_times(lambda: find_nodes_to_avoid(script))
        except (SlurmError, OSError) as error:
            logger.error("the job may get nodes again that failed: %s", error)
            return ()
        return tuple(nodes) if nodes.failed else ()

    async def _exclude(self, nodes: tuple[str, ...]) -> None:
        """Sets the excluded nodes of the requeued job; SLURM refuses that while a job runs."""
        if not nodes:
            return
        try:
            await self._ask_several_times(lambda: client.exclude_nodes(self.job_id, nodes))
            logger.info("the requeued job will not get %s", ", ".join(nodes))
        except SlurmError as error:
            logger.error("the job may get %s again: %s", ", ".join(nodes), error)

    async def _ask_several_times(self, ask: "Callable[[], _Answer]") -> "_Answer":
        """Asks again after a failure: SIGTERM for the job also ends the commands that it runs.

        Raises:
            SlurmError: All tries failed.
        """
        for _ in range(ASK_TIMES - 1):
            with suppress(SlurmError):
                return await asyncio.to_thread(ask)
            await asyncio.sleep(ASK_SECONDS)
        return await asyncio.to_thread(ask)

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
        cause = find_end_cause(fields, restart_count=self.restart_count, now=time.time())
        return cause is StopCause.USER

    async def release(self) -> None:
        """Cancels the successor."""
        if self._successor is not None:
            await self._successor.release()

    def find_avoided(self) -> Mapping[str, str]:
        """Nodes of this job that failed lately, in any run."""
        remembered = load_excluded(self.runs_dir)
        return {each.node: str(each) for each in remembered if each.node in self.nodes}

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
    if _is_preempted(fields):
        return StopCause.PREEMPTED
    if state.startswith(_REQUEUED_STATES):
        return StopCause.PREEMPTED
    if restarts.isdecimal() and int(restarts) > restart_count:
        return StopCause.PREEMPTED  # `scontrol requeue`, by an administrator or `bigtrain requeue`.
    end = _limit_end(fields)
    # A job that is completing before its limit, without that reason, was cancelled.
    early = 0.0 if state.startswith("COMPLETING") else NEAR_LIMIT_SECONDS
    reached = end is not None and now >= end - early
    return StopCause.TIME_LIMIT if reached else StopCause.USER


def find_end_cause(
    fields: Mapping[str, str], *, restart_count: int, now: float
) -> StopCause | None:
    """Why SLURM ends a job, whose processes it may have killed before a signal was seen. Pure.

    Args:
        fields: As for `find_stop_cause`.
        restart_count: How often this job had been queued again when it began.
        now: The present time, in seconds since the epoch.

    Returns:
        None if the job goes on: lost nodes and killed ranks are then what they seem.
    """
    cause = find_stop_cause(fields, restart_count=restart_count, now=now)
    is_ending = fields.get("JobState", "").startswith(("COMPLETING", "CANCELLED"))
    return cause if is_ending or cause is not StopCause.USER else None


def find_end(fields: Mapping[str, str]) -> float | None:
    """When the time limit ends a job, in seconds since the epoch; None if unknown. Pure.

    SLURM does not know the EndTime for a while after its controller was started again, and during
    a preemption it is the end of the time of grace.

    Args:
        fields: The fields of ``scontrol show job`` by name.
    """
    end = None if _is_preempted(fields) else parse_moment(fields.get("EndTime", ""))
    return _limit_end(fields) if end is None else end


def _is_preempted(fields: Mapping[str, str]) -> bool:
    return fields.get("PreemptTime", "None") not in ("None", "", "Unknown", "N/A")


def _limit_end(fields: Mapping[str, str]) -> float | None:
    start = parse_moment(fields.get("StartTime", ""))
    limit = parse_duration(fields.get("TimeLimit", ""))
    return None if start is None or limit is None else start + limit


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
