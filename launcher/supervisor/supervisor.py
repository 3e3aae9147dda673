"""Supervises a job: waits for agents, checks the nodes, runs attempts, decides, acts."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from launcher.supervisor.agent_start import AgentStart
from launcher.supervisor.agents import Agents
from launcher.supervisor.attempt_runner import AttemptRunner
from launcher.supervisor.decide import decide
from launcher.supervisor.describe import render_history
from launcher.supervisor.file_retries import FilesUnavailableError
from launcher.supervisor.history import find_lost_end, read_history
from launcher.supervisor.interfaces import (
    Preflight,
    Scheduler,
    Starter,
    SupervisedRun,
)
from launcher.supervisor.job_settings import JobSettings
from launcher.supervisor.node_blame import blame_lost_nodes
from launcher.supervisor.node_checks import NodeChecks
from launcher.supervisor.placement import place_nodes
from launcher.supervisor.report import SupervisorReport
from launcher.supervisor.stops import StopWatch
from launcher.supervisor.values import (
    Action,
    AttemptEnd,
    Decision,
    EndKind,
    RequeueResult,
    Resources,
)

logger = logging.getLogger("launcher.supervisor")

REPORT_SECONDS = 2.0
_Value = TypeVar("_Value")


@dataclass(slots=True)
class Supervisor:
    """Supervises one job of a run."""

    job: JobSettings
    run: SupervisedRun
    scheduler: Scheduler
    starter: Starter
    preflight: Preflight | None = None
    agents: Agents = field(init=False)
    stops: StopWatch = field(init=False)
    report: SupervisorReport = field(init=False)
    attempts: AttemptRunner = field(init=False)
    agent_start: AgentStart = field(init=False)
    continues_later: bool = False  # whether a later job continues the run
    _ended: asyncio.Event = field(default_factory=asyncio.Event)  # the last report can be written
    _history: list[AttemptEnd] = field(default_factory=list)
    _lost_end: AttemptEnd | None = None  # of the job before, if its supervisor was lost
    _excluded: dict[str, str] = field(default_factory=dict)  # node → why
    _files_error: str = ""  # why the run folder could not be read at the start

    async def supervise(self) -> int:
        """Runs the job to its end; returns its exit code."""
        self._prepare()
        self.stops.start()
        try:
            if await self.attempts.use_files(self.run.is_finished):
                logger.info("the run has finished already")
                await self.stops.close()
                return 0
            await self._read_history()
        except FilesUnavailableError as error:
            self._files_error = str(error)
        self._append(
            "job_start",
            restart_count=self.scheduler.restart_count,
            nodes=list(self.scheduler.nodes),
        )
        reporting = asyncio.create_task(self._write_reports())
        failed = True
        try:
            decision = await self._run_job()
            failed = False
        except BaseException as error:
            why = f"the supervisor failed: {type(error).__name__}: {error}"
            self._append("job_end", state="failed", reason=why)
            # Otherwise the next job of a chain would fail in the same way, and the next.
            await self.scheduler.release()
            raise
        finally:
            await self._close(lets_ranks_save=failed)
            self.report.state = "ended"
            self._ended.set()
            await reporting
        if decision.action is Action.REQUEUE:
            # Last of all, because the scheduler then ends this process.
            return await self._requeue(decision)
        return decision.exit_code

    async def _read_history(self) -> None:
        events = await self.attempts.use_files(self.run.history)
        progress = await self.attempts.use_files(self.run.progress)
        self.attempts.saved_step = progress.saved_step
        self._history = read_history(events)
        self._lost_end = find_lost_end(events, saved_step=progress.saved_step)

    async def _requeue(self, decision: Decision) -> int:
        """Lets the run continue in a later job; returns the exit code of this one."""
        result = RequeueResult.CANCELLED
        if not self.stops.is_by_user:  # A user may have asked when the decision was made already.
            result = await self.scheduler.requeue()
        if result is RequeueResult.QUEUED:
            return decision.exit_code
        self.continues_later = False
        await self.scheduler.release()
        if result is RequeueResult.CANCELLED:
            self._append("job_end", state="stopped", reason="the user has cancelled the job")
            return 0
        reason = f"{decision.reason}, but not queued again; `bigtrain requeue RUN` continues it"
        self._append("job_end", state="held", reason=reason)
        self.run.write_status(state="held", reason=reason)
        return 1

    def _prepare(self) -> None:
        self.stops = StopWatch(self.scheduler, self.run.folder, self.job.cluster.warning_seconds)
        self.agents = Agents(
            nodes=self.scheduler.nodes,
            agents_per_node=self.starter.agents_per_node,
            token=secrets.token_hex(32),
            on_signal=self.stops.on_signal,
        )
        self.report = SupervisorReport(self.run.folder, self.scheduler.job_id, self.agents, set())
        self.attempts = AttemptRunner(
            job=self.job,
            run_record=self.run,
            agents=self.agents,
            stops=self.stops,
            report=self.report,
            append=self._append,
        )
        self.agent_start = AgentStart(
            self.job, self.scheduler.job_id, self.agents, self.starter, self.stops
        )

    async def _run_job(self) -> Decision:
        await self.scheduler.begin()
        if not self._files_error:
            await self.agent_start.start()
            await self._exclude_avoided_nodes()
        decision = await self._run_attempts()
        state = self._write_final_state(decision)
        self.continues_later = state == "requeued"
        self._append("job_end", state=state, reason=decision.reason)
        if state != "requeued":
            await self.scheduler.release()
        return decision

    async def _exclude_avoided_nodes(self) -> None:
        """Excludes nodes that earlier jobs found bad, if as many ranks fit on the others."""
        for node, why in (await asyncio.to_thread(self.scheduler.find_avoided)).items():
            now = self._resources()
            others = replace(now, nodes=tuple(each for each in now.nodes if each != node))
            before, after = place_nodes(now, self.job.policy), place_nodes(others, self.job.policy)
            if after is not None and before is not None and after.world_size == before.world_size:
                self._excluded[node] = why
                self.report.excluded.add(node)
                logger.warning("not used: %s", why)
            elif node in now.nodes:
                logger.warning("used all the same, because no other node is left: %s", why)

    async def _run_attempts(self) -> Decision:
        """Runs attempts until a decision ends the job."""
        end = await self._check_nodes()
        if self._lost_end is not None:
            # The supervisor of the job before was lost, so what follows its end is decided here.
            self._history += [self._lost_end] if end is not None else []
            end = end or self._lost_end
        decision = await self._first_decision() if end is None else self._decide(end)
        while decision.action in (Action.RESTART, Action.REWIND):
            await self._wait_before_restart(decision)
            end = await self._end_if_stopped() or await self.attempts.run(decision)
            decision = self._decide(end)
            if decision.action is Action.REWIND:
                decision = await self._rewind(decision)
            self.report.state = "restarting"
        return decision

    async def _check_nodes(self) -> AttemptEnd | None:
        """Runs the preflight checks; returns an end if nodes are bad, or the job was stopped."""
        if self._files_error:
            return await self._end_without_files(self._files_error)
        if self.preflight is not None and self.job.cluster.preflight and not self._is_stopped:
            self.report.state, self.report.message = "preflight", "checking the nodes"
            checks = NodeChecks(
                agents=self.agents,
                stops=self.stops,
                settings=replace(
                    self.attempts.start_settings(), log_dir=self.run.log_dir / "preflight"
                ),
                ranks_per_node=self.job.ranks_per_node,
            )
            preflight, stop = self.preflight, self.stops.requested
            try:
                result = await self._unless_stopped(
                    self.job.files.run_async(lambda: preflight(checks), stop)
                )
            except FilesUnavailableError as error:
                return await self._end_without_files(str(error))
            if result is not None and result.summary:
                logger.info("preflight: %s", result.summary)
            if result is not None and result.refusal:
                return self._end_before_start(EndKind.BAD_INPUT, result.refusal)
            if result is not None and result.bad:
                why = "; ".join(f"{node}: {reason}" for node, reason in result.bad.items())
                return self._end_before_start(EndKind.BAD_NODES, why, tuple(result.bad))
        return await self._end_if_stopped()

    async def _end_without_files(self, message: str) -> AttemptEnd:
        end = await self._end_if_stopped()
        return end or self._end_before_start(EndKind.FILES_UNAVAILABLE, message)

    async def _wait_before_restart(self, decision: Decision) -> None:
        """Waits as long as was decided, or until the job is asked to stop."""
        if decision.delay_seconds:
            self.report.state = "restarting"
            logger.info("the ranks start again in %.0f s", decision.delay_seconds)
            await self._unless_stopped(asyncio.sleep(decision.delay_seconds))

    async def _end_if_stopped(self) -> AttemptEnd | None:
        """The end of an attempt that does not begin, because the job was asked to stop."""
        if not self._is_stopped:
            return None
        end = await self.attempts.end_stopped_early()
        self.attempts.record(end, None, seconds=0)
        return end

    def _end_before_start(
        self, kind: EndKind, message: str, nodes: tuple[str, ...] = ()
    ) -> AttemptEnd:
        end = self.attempts.end_before_start(kind, message, nodes)
        self.attempts.record(end, None, seconds=0)
        return end

    async def _first_decision(self) -> Decision:
        """The first decision: the ranks start on the nodes that are ready, if these are enough."""
        resources = self._resources()
        placement = place_nodes(resources, self.job.policy)
        if placement is None:
            await self.stops.ask_scheduler()
            if (end := await self._end_if_stopped()) is not None:
                return self._decide(end)
            lost = self.agents.lost
            why = "; ".join(f"{node}: {reason}" for node, reason in list(lost.items())[:3])
            message = why or "too few nodes"
            ended = self.agent_start.starter_ended
            if len(lost) == len(self.agents.nodes) and not ended:
                message += "; cluster.network_interface may be wrong"
            blamed = blame_lost_nodes(lost, self.agents.nodes, starter_ended=bool(ended))
            return self._decide(self._end_before_start(EndKind.NODE_LOST, message, blamed))
        return Decision(Action.RESTART, "", nodes=placement.nodes, world_size=placement.world_size)

    def _decide(self, end: AttemptEnd) -> Decision:
        decision = decide(end, self._history, self._resources(), self.job.policy)
        self._history.append(replace(end, rewound=decision.action is Action.REWIND))
        for node in decision.excluded:
            if node not in self._excluded:
                self._excluded[node] = end.message or end.kind.value
                self.report.excluded.add(node)
        if decision.excluded:
            self.scheduler.remember_excluded(decision.excluded, end.message or end.kind.value)
        self._append(
            "decision",
            action=decision.action.value,
            reason=decision.reason,
            excluded=list(decision.excluded),
            nodes=list(decision.nodes),
            world_size=decision.world_size,
        )
        self.report.message = decision.reason
        level = logging.INFO if decision.action is Action.END else logging.WARNING
        logger.log(level, "%s: %s", decision.action.value, decision.reason)
        return decision

    async def _rewind(self, decision: Decision) -> Decision:
        plan = decision.rewind
        assert plan is not None
        try:
            line = await self.attempts.use_files(lambda: self.run.rewind(plan))
        except FilesUnavailableError as error:
            return self._decide(await self._end_without_files(str(error)))
        except ValueError as error:
            reason = f"{decision.reason}; but the run cannot be rewound: {error}"
            return replace(decision, action=Action.FAIL, reason=reason, exit_code=1)
        logger.warning("%s", line)
        return decision

    def _resources(self) -> Resources:
        return Resources(
            nodes=tuple(node for node in self.agents.ready() if node not in self._excluded),
            ranks_per_node=self.job.ranks_per_node,
            full_world_size=self.job.world_size,
            world_sizes=self.job.world_sizes,
            can_requeue=self.scheduler.can_requeue,
        )

    def _write_final_state(self, decision: Decision) -> str:
        match decision.action:
            case Action.REQUEUE:
                return "requeued"
            case Action.HOLD | Action.FAIL:
                for line in render_history(self._history):
                    logger.error("%s", line)
                state = "held" if decision.action is Action.HOLD else "failed"
                self.run.write_status(state=state, reason=decision.reason)
                return state
            case _:
                is_finished = self._history[-1].kind is EndKind.FINISHED
                return "finished" if is_finished else "stopped"

    @property
    def stopped_by(self) -> str | None:
        """What asked the run to stop first, such as SIGINT; None if nothing did."""
        stop = self.stops.stop if self._ended.is_set() else None
        return stop.name if stop is not None else None

    @property
    def _is_stopped(self) -> bool:
        return self.stops.stop is not None

    async def _unless_stopped(self, work: Awaitable[_Value]) -> _Value | None:
        """Waits for work; cancels it and returns None when the job is asked to stop."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self.stops.requested.wait())
        try:
            await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
            return await task if task.done() else None
        finally:
            task.cancel()
            stop.cancel()

    def _append(self, event: str, **fields: Any) -> None:
        try:
            self.run.append_event({"event": event, "job": self.scheduler.job_id, **fields})
        except OSError as error:
            logger.error("attempts.jsonl was not written: %s", error)

    async def _write_reports(self) -> None:
        """Writes one report after the other, since a disk may be slow; returns after the last."""
        while not self._ended.is_set():
            await self._write_report()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), REPORT_SECONDS)
        await self._write_report()

    async def _write_report(self) -> None:
        fields = self.report.render()
        try:
            await asyncio.to_thread(self.report.write, fields)
        except OSError as error:
            logger.warning("supervisor.json was not written: %s", error)

    async def _close(self, *, lets_ranks_save: bool) -> None:
        if lets_ranks_save:
            # The agents see that the supervisor is gone, so the ranks save before they end.
            logger.error("the supervisor fails; it waits until the ranks have saved")
        await self.agents.close(lets_ranks_save=lets_ranks_save)
        # Meanwhile agents that were still starting connect, and are told to end.
        await self.starter.close(lets_ranks_save=lets_ranks_save)
        self.agents.stop_listening()
        try:
            await self.stops.close()
        except OSError as error:
            logger.warning("request.json was not removed: %s", error)
