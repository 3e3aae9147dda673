"""One attempt: starts ranks on the nodes, and follows them until all have ended."""

import asyncio
import logging
import math
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from launcher.agent.messages import (
    DumpStacks,
    Heartbeat,
    Message,
    RankBeat,
    RankEnded,
    RanksEnded,
    RankStacks,
    Signal,
    Start,
    StartFailed,
)
from launcher.failures import RankEnd
from launcher.ranks import stop_signal_file
from launcher.supervisor.agents import AgentEvent, AgentLink, Agents, NodeLost
from launcher.supervisor.hangs import Hang, HangWatch
from launcher.supervisor.rank_starts import NodeRanks, StartSettings, render_starts
from launcher.supervisor.stops import StopWatch

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.5
STACKS_SECONDS = 8.0
"""Limit for the stacks of all ranks of a run that hangs."""
DIVERGED_GRACE_SECONDS = 25.0
"""After the loss guard has given up, the time for rank 0 to complete its save and its record."""
KILLED_SECONDS = 15.0
"""A node whose ranks do not end this long after SIGKILL is lost: they hang inside the kernel."""


@dataclass(frozen=True, slots=True)
class AttemptLimits:
    """Limits of an attempt."""

    hang_seconds: float
    start_seconds: float
    grace_seconds: float = 3.0
    """After a rank failed, the time that the others have to end."""
    total_seconds: float = math.inf
    """Limit for the whole attempt; used for checks."""


@dataclass(slots=True)
class AttemptOutcome:
    """What the supervisor saw of an attempt."""

    started: float = field(default_factory=time.time)
    ends: dict[int, RankEnd] = field(default_factory=dict)
    lost: dict[str, NodeLost] = field(default_factory=dict)  # nodes that had ranks
    start_failed: tuple[str, str] | None = None  # node and message
    hang: Hang | None = None
    stacks: dict[int, RankStacks] = field(default_factory=dict)
    last_step: int = 0  # newest step that a rank completed
    timed_out: bool = False  # `AttemptLimits.total_seconds` have passed
    failed_at: float | None = None  # of the first failed rank, lost node or hang; epoch seconds


@dataclass(slots=True)
class RunningAttempt:
    """Follows the ranks of one generation until all have ended."""

    agents: Agents
    placed: Sequence[NodeRanks]
    limits: AttemptLimits
    stops: StopWatch
    generation: int
    recovers_from: float | None = None  # time of the failure before this attempt
    outcome: AttemptOutcome = field(default_factory=AttemptOutcome)
    beats: dict[int, tuple[RankBeat, float]] = field(default_factory=dict)  # with their time
    state: str = "running"
    _running: set[AgentLink] = field(default_factory=set)
    _nodes: dict[str, NodeRanks] = field(default_factory=dict)
    _watch: HangWatch = field(init=False)
    _stop_file: Path = field(init=False)
    _began: float = field(default_factory=time.monotonic)
    _deadline: float | None = None  # on the monotonic clock; what still runs is killed then
    _killed: bool = False
    _stop_sent: bool = False
    _stacks_until: float | None = None
    _first_step: int | None = None  # step of the first heartbeat of a rank that trains

    def __post_init__(self) -> None:
        self._watch = HangWatch(self.limits.hang_seconds, self.limits.start_seconds)
        self._nodes = {node.node: node for node in self.placed}

    async def run(self, start: StartSettings) -> AttemptOutcome:
        """Starts the ranks, and returns when none runs any more."""
        self._stop_file = stop_signal_file(start.log_dir)
        with suppress(OSError):  # If the file stays, it only gives a later stop the wrong name.
            self._stop_file.unlink(missing_ok=True)
        with self.agents.follow(self.generation) as events:
            self._start(render_starts(self.placed, start))
            while self._running:
                event: AgentEvent | None = None
                with suppress(TimeoutError):
                    event = await asyncio.wait_for(events.get(), TICK_SECONDS)
                if isinstance(event, NodeLost):
                    self._on_lost(event)
                elif event is not None:
                    self._on_message(*event)
                self._on_time()
        return self.outcome

    def _start(self, starts: Sequence[tuple[AgentLink, Start]]) -> None:
        now = time.monotonic()
        for node in self.placed:
            for rank in node.ranks:
                self._watch.observe(rank, "start", 0, None, now)
        for link, message in starts:
            self._running.add(link)
            link.send(message)
        for node in self.placed:
            if node.node in self.agents.lost:  # Lost since the ranks were placed.
                self._on_lost(NodeLost(node.node, self.agents.lost[node.node], time.time()))

    def _on_message(self, link: AgentLink, message: Message) -> None:
        match message:
            case Heartbeat():
                for beat in message.ranks:
                    self._on_beat(beat)
            case RankEnded():
                self._on_rank_end(link, message.end)
            case RanksEnded():
                self._running.discard(link)
            case StartFailed():
                self.outcome.start_failed = self.outcome.start_failed or (
                    link.node,
                    message.message,
                )
                self._tear_down(self.limits.grace_seconds)
            case RankStacks():
                self.outcome.stacks[message.rank] = message

    def _on_beat(self, beat: RankBeat) -> None:
        before = self.beats.get(beat.rank)
        now = time.monotonic()
        self.beats[beat.rank] = beat, now
        if beat.beats == (before[0].beats if before else 0):
            return
        came = now - beat.seconds_since
        self._watch.observe(beat.rank, beat.phase, beat.step, beat.seconds, came)
        if beat.seconds is None:
            return
        self.outcome.last_step = max(self.outcome.last_step, beat.step)
        if self._first_step is None:
            self._first_step = beat.step
            self._report_first_step(beat)

    def _report_first_step(self, beat: RankBeat) -> None:
        when = time.time() - beat.seconds_since
        if self.recovers_from is not None:
            logger.info("recovered in %.1f s: step %d", when - self.recovers_from, beat.step)
        else:
            logger.info("step %d, %.1f s after the start", beat.step, when - self.outcome.started)

    def _on_rank_end(self, link: AgentLink, end: RankEnd) -> None:
        report = end.report
        if report is not None:
            report = replace(report, time=report.time + link.clock_offset)
        end = replace(end, time=end.time + link.clock_offset, report=report)
        self.outcome.ends[end.rank] = end
        self.beats.pop(end.rank, None)
        self._watch.forget(end.rank)
        if end.code != 0:
            diverged = report is not None and report.divergence is not None
            self._tear_down(DIVERGED_GRACE_SECONDS if diverged else self.limits.grace_seconds)

    def _on_lost(self, lost: NodeLost) -> None:
        logger.error("node %s is lost: %s", lost.node, lost.message)
        node = self._nodes.get(lost.node)
        if node is None or not self._running & set(node.agents):
            return  # A spare, or its ranks have ended.
        self.outcome.lost.setdefault(lost.node, lost)
        self._running -= set(node.agents)
        for rank in node.ranks:
            self._watch.forget(rank)
            self.beats.pop(rank, None)
        self._tear_down(self.limits.grace_seconds)

    def _tear_down(self, grace_seconds: float) -> None:
        """Ends all ranks, because one failed: the others may wait for it in a collective."""
        if self.outcome.failed_at is None:
            self.outcome.failed_at = time.time()
        deadline = time.monotonic() + grace_seconds
        if self.state != "stopping" or self._deadline is None:
            self.state = "stopping"
            self._send(signal.SIGTERM)
            self._deadline = deadline

    def _send(self, number: signal.Signals) -> None:
        for link in self._running:
            link.send(Signal(self.generation, number.name))

    def _on_time(self) -> None:
        now = time.monotonic()
        stop = self.stops.stop
        if stop is not None and not self._stop_sent:
            self._stop_sent = True
            with suppress(OSError):
                self._stop_file.write_text(stop.name)
            if self.state == "running":
                self.state = "stopping"
                self._send(stop.signal)
        if stop is not None and stop.deadline is not None and time.time() > stop.deadline:
            self._kill(now)
        if now - self._began > self.limits.total_seconds and self.outcome.failed_at is None:
            self.outcome.timed_out = True
            self._tear_down(0)
        if self.stops.kill.is_set() or (self._deadline is not None and now > self._deadline):
            self._kill(now)
        self._check_for_hang(now)

    def _kill(self, now: float) -> None:
        if not self._killed:
            self._killed = True
            self._deadline = now + KILLED_SECONDS
            self._send(signal.SIGKILL)
        elif self._deadline is not None and now > self._deadline:
            for node in {link.node for link in self._running}:
                self.agents.lose(node, "its ranks did not end after SIGKILL")
            self._deadline = now + KILLED_SECONDS

    def _check_for_hang(self, now: float) -> None:
        if self._stacks_until is not None:
            expected = {rank for node in self.placed for rank in node.ranks}
            complete = self.outcome.stacks.keys() | self.outcome.ends.keys() >= expected
            if complete or now > self._stacks_until:
                self._stacks_until = None
                self._kill(now)
            return
        if self.outcome.hang is not None or self._deadline is not None:
            return
        hang = self._watch.hung(now)
        if hang is None:
            return
        logger.error(
            "no step for %.0f s (limit %.0f s): collecting the stacks of all ranks",
            *(hang.seconds, hang.limit),
        )
        self.outcome.hang = hang
        self.outcome.failed_at = time.time()
        self.state = "stopping"
        self._stacks_until = now + STACKS_SECONDS
        for link in self._running:
            link.send(DumpStacks(self.generation))


def node_of(placed: Sequence[NodeRanks], rank: int) -> str | None:
    """The node of a rank."""
    return next((node.node for node in placed if rank in node.ranks), None)
