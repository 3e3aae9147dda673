"""Runs one attempt after a decision: config, placement, ranks, record of the end."""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any, TypeVar

from bigtrain.config.node_names import compress_names
from launcher.supervisor.agents import Agents
from launcher.supervisor.attempt import AttemptLimits, RunningAttempt
from launcher.supervisor.attempt_end import (
    build_attempt_end,
    describe_failure,
    may_be_ended_by_scheduler,
)
from launcher.supervisor.file_retries import FilesUnavailableError
from launcher.supervisor.hang_files import report_hang
from launcher.supervisor.interfaces import RunProgress, SupervisedRun
from launcher.supervisor.job_settings import JobSettings
from launcher.supervisor.node_blame import blame_lost_nodes
from launcher.supervisor.rank_starts import (
    NodeRanks,
    StartSettings,
    find_master_address,
    place_ranks,
)
from launcher.supervisor.report import SupervisorReport
from launcher.supervisor.stops import StopWatch
from launcher.supervisor.values import AttemptEnd, Decision, EndKind

logger = logging.getLogger("launcher.supervisor")

_Value = TypeVar("_Value")
LOCK_SECONDS = 150.0
"""A lost node may hold the lock of the run this long: an NFS server frees the locks of a client
that is gone when its lease ends, most often after 90 s."""


class _NodesGoneError(Exception):
    """Nodes were lost between the decision and the start of the ranks."""

    def __init__(self, nodes: tuple[str, ...]) -> None:
        super().__init__(nodes)
        self.nodes = nodes


@dataclass(slots=True)
class AttemptRunner:
    """Runs attempts on the agents of a job."""

    job: JobSettings
    run_record: SupervisedRun
    agents: Agents
    stops: StopWatch
    report: SupervisorReport
    append: Callable[..., None]  # appends an event to the record of the run
    recovers_from: float | None = None  # time of the failure before the next attempt
    saved_step: int = 0  # step of the newest checkpoint, when the run was last looked at
    has_begun: bool = False  # whether an attempt of this job began

    async def use_files(self, work: Callable[[], _Value]) -> _Value:
        """Reads or writes files of the run in a thread, and tries again if that fails.

        Raises:
            FilesUnavailableError: It failed for too long.
        """
        return await self.job.files.run(work, self.stops.requested)

    async def run(self, decision: Decision) -> AttemptEnd:
        """Runs an attempt to its end, and records the end.

        Args:
            decision: RESTART or REWIND, with the nodes and the number of ranks.
        """
        began = time.time()
        number: int | None = None
        try:
            before = await self.use_files(self.run_record.progress)
            self.saved_step = before.saved_step
            end, number = await self._run(decision, before)
        except _NodesGoneError as gone:
            why = "; ".join(sorted({self.agents.lost.get(node, "no agent") for node in gone.nodes}))
            message = f"{compress_names(gone.nodes)} lost: {why}"
            blamed = blame_lost_nodes(gone.nodes, decision.nodes)
            end = self.end_before_start(EndKind.NODE_LOST, message, blamed)
        except FilesUnavailableError as error:
            end = await self._end_without_files(str(error))
        except ValueError as error:
            # The config, which is the same on every node, so no restart helps.
            end = self.end_before_start(EndKind.BAD_INPUT, str(error))
        self.record(end, number, seconds=time.time() - began)
        return end

    def end_before_start(
        self, kind: EndKind, message: str, nodes: tuple[str, ...] = ()
    ) -> AttemptEnd:
        """The end of an attempt that started no rank."""
        step = self.saved_step
        return AttemptEnd(kind, step, step, step, message=message, nodes=nodes)

    async def end_stopped_early(self) -> AttemptEnd:
        """The end of an attempt that starts no rank, because the job was asked to stop."""
        await self.stops.settle()
        stop = self.stops.stop
        assert stop is not None
        end = self.end_before_start(
            EndKind.STOPPED, f"stopped by {stop.name} before the ranks started"
        )
        return replace(end, stop_cause=stop.cause)

    async def _end_without_files(self, message: str) -> AttemptEnd:
        await self.stops.settle()
        stop = self.stops.stop
        if stop is None:
            return self.end_before_start(EndKind.FILES_UNAVAILABLE, message)
        message = f"stopped by {stop.name}, but {message}"
        return replace(self.end_before_start(EndKind.STOPPED, message), stop_cause=stop.cause)

    def record(self, end: AttemptEnd, attempt: int | None, *, seconds: float) -> None:
        """Appends the end to the record of the run.

        Args:
            end: How the attempt ended.
            attempt: Number of the attempt in the run folder; None if none began.
            seconds: How long it took.
        """
        self.report.attempt_ends += 1
        if attempt is not None and end.kind is not EndKind.FINISHED:
            reason = end.message
            if end.kind is EndKind.RANK_FAILED and end.rank is not None:
                reason = f"rank {end.rank} failed first: {end.message}"
            self.run_record.record_failure(attempt=attempt, reason=reason, rank=end.rank)
        self.append("attempt_end", attempt=attempt, **_plain(end), seconds=round(seconds, 3))

    def start_settings(self) -> StartSettings:
        """What all ranks of the job have in common."""
        return StartSettings(
            generation=0,
            command=(),
            log_dir=self.run_record.log_dir,
            world_size=0,
            master=("", 0),
            network_interface=self.job.cluster.network_interface,
            threads=self.job.cluster.cpus_per_rank,
            torchrun=self.job.cluster.starter == "torchrun",
        )

    async def _run(self, decision: Decision, before: RunProgress) -> tuple[AttemptEnd, int | None]:
        is_over = self.stops.requested.is_set
        await self.use_files(lambda: self.run_record.wait_until_free(LOCK_SECONDS, is_over=is_over))
        if is_over():
            return await self.end_stopped_early(), None
        placed, master = await self._place(decision)
        attempt = RunningAttempt(
            agents=self.agents,
            placed=placed,
            limits=AttemptLimits(
                hang_seconds=self.job.cluster.hang_seconds,
                start_seconds=self.job.cluster.start_seconds,
                grace_seconds=self.job.attempt_grace_seconds,
            ),
            stops=self.stops,
            generation=self.agents.new_request(),
            recovers_from=self.recovers_from,
        )
        launch = ExitStack()
        command = await self.use_files(
            lambda: launch.enter_context(self.run_record.launch_config())
        )
        start = replace(
            self.start_settings(),
            generation=attempt.generation,
            command=command,
            world_size=decision.world_size,
            master=master,
        )
        logger.info(
            "starting %d ranks on %s, from step %d",
            *(decision.world_size, compress_names(decision.nodes), before.saved_step),
        )
        self.report.state, self.report.message, self.report.attempt = "running", "", attempt
        try:
            await attempt.run(start)
        finally:
            self.report.attempt = None
            _close(launch)
        return await self._build_end(attempt, before)

    async def _place(self, decision: Decision) -> tuple[list[NodeRanks], tuple[str, int]]:
        """Places the ranks; returns them, and the address and port of rank 0.

        Raises:
            _NodesGoneError: The agents of a node are gone.
        """
        agents = {node: self.agents.of_node(node) for node in decision.nodes}
        ready = self.agents.ready()
        if gone := tuple(node for node in decision.nodes if node not in ready):
            raise _NodesGoneError(gone)
        placed = place_ranks(decision.nodes, decision.world_size, self.job.ranks_per_node, agents)
        first = placed[0].agents[0]
        try:
            port = await self.agents.find_port(first)
        except TimeoutError:
            self.agents.lose(first.node, "its agent does not answer")
            raise _NodesGoneError((first.node,)) from None
        return placed, (find_master_address(placed), port)

    async def _build_end(
        self, attempt: RunningAttempt, before: RunProgress
    ) -> tuple[AttemptEnd, int | None]:
        await self.stops.settle()
        outcome, placed = attempt.outcome, attempt.placed
        if may_be_ended_by_scheduler(outcome):
            await self.stops.ask_scheduler()
        after = await self.use_files(self.run_record.progress)
        self.saved_step = after.saved_step
        for line in describe_failure(outcome, placed):
            logger.error("%s", line)
        end = build_attempt_end(
            outcome,
            placed,
            before=before,
            after=after,
            stop=self.stops.stop,
            hang=report_hang(outcome, placed, self.run_record.log_dir),
            has_begun=self.has_begun,
        )
        self.has_begun = self.has_begun or after.attempt != before.attempt
        self.recovers_from = outcome.failed_at or time.time()
        return end, after.attempt if after.attempt != before.attempt else None


def _close(launch: ExitStack) -> None:
    try:
        launch.close()
    except OSError as error:  # The next attempt writes another file.
        logger.warning("the config of the attempt was not removed: %s", error)


def _plain(end: AttemptEnd) -> dict[str, Any]:
    """The fields of an end, as JSON has them."""
    fields = asdict(end)
    return {name: each.value if isinstance(each, Enum) else each for name, each in fields.items()}
