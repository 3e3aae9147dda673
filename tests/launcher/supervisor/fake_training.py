"""A supervised run whose ranks are small scripts: they take steps, save, and obey signals."""

import asyncio
import errno
import json
import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bigtrain.config.cluster import ClusterConfig
from bigtrain.config.rewind_plan import RewindPlan
from launcher.supervisor.file_retries import FileRetries
from launcher.supervisor.job_settings import JobSettings
from launcher.supervisor.supervisor import Supervisor
from launcher.supervisor.values import EndKind, RequeueResult, StopCause
from tests.launcher.supervisor.local_starter import LocalStarter

# Each rank takes STEPS steps of 20 ms from the newest checkpoint; rank 0 saves every 5 steps. A
# step is a barrier through files: a rank waits until every other has reached the step before.
RANK = """
import faulthandler, json, os, signal, socket, sys, time
from pathlib import Path

folder, steps = Path(sys.argv[1]), int(sys.argv[2])
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
node = os.environ["BIGTRAIN_NODE"]
stops = []
for number in (signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, lambda number, _: stops.append(number))
faulthandler.register(signal.SIGQUIT, file=open(os.environ["BIGTRAIN_STACKS_FILE"], "a"))
link = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

def beat(phase, step, seconds=None):
    fields = dict(rank=rank, pid=os.getpid(), phase=phase, step=step, seconds=seconds)
    link.sendto(json.dumps(fields).encode(), os.environ["BIGTRAIN_HEARTBEAT_SOCKET"])

def put(name, text):
    part = folder / f".{name}.{rank}"
    part.write_text(str(text))
    part.rename(folder / name)

def get(name, default=0):
    try:
        return int((folder / name).read_text())
    except (OSError, ValueError):
        return default

def fail(message, code=1, **more):
    file = Path(os.environ["BIGTRAIN_ERROR_FILE"])
    fields = dict(rank=rank, exit_code=code, message=message, time=time.time(), **more)
    fields.setdefault("traceback", "Traceback:\\n  in the fake rank\\n" + message)
    file.write_text(json.dumps(fields))
    sys.exit(code)

beat("start", 0)
attempt = os.environ["MASTER_PORT"]
step = get("saved")
{early}
if rank == 0:
    with (folder / "starts").open("a") as file:
        file.write(json.dumps(dict(attempt=attempt, step=step, world=world)) + "\\n")
put(f"pid-{rank}-{attempt}", os.getpid())
put(f"pid-{rank}", os.getpid())
put(f"node-{rank}", node)
stopped = False

def stops_at(step):
    # Rank 0 decides for all at which step they stop, as the reduction does.
    if stops and rank == 0 and not get(f"stop-{attempt}", None):
        put(f"stop-{attempt}", step + 2)
    return get(f"stop-{attempt}", None)

beat("load", step)
while step < steps:
    for other in range(world):
        while get(f"at-{attempt}-{other}", -1) < step and step > get("saved"):
            time.sleep(0.002)
    {body}
    time.sleep(0.02)
    step += 1
    put(f"at-{attempt}-{rank}", step)
    beat("train", step, 0.02)
    if rank == 0 and (step % 5 == 0 or step == steps):
        put("saved", step)
    at = stops_at(step)
    if at is not None and step >= at:
        stopped = True
        break
    if stops and world == 0:
        break
if rank == 0:
    put("saved", step)
    put("state", json.dumps(dict(state="stopped" if stopped else "finished", step=step)))
beat("end", step)
"""


@dataclass(frozen=True)
class Progress:
    """Implements `RunProgress`."""

    attempt: int | None
    attempt_step: int
    step: int
    state: str
    saved_step: int


@dataclass
class FakeRun:
    """The files of a run of fake ranks; implements `SupervisedRun`."""

    folder: Path
    steps: int = 40
    body: str = "pass"
    early: str = "pass"
    """What a rank does before its attempt begins."""
    unusable: Callable[[str], bool] = lambda _: False
    """Whether the method of this name raises an OSError now."""
    events: list[dict[str, Any]] = field(default_factory=list)
    earlier: list[dict[str, Any]] = field(default_factory=list)
    failures: list[tuple[int, str, int | None]] = field(default_factory=list)
    final: tuple[str, str] | None = None
    rewound: list[RewindPlan] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)  # longest times to wait for the lock

    @property
    def log_dir(self) -> Path:
        return self.folder / "logs"

    def read(self, name: str) -> int:
        try:
            return int((self.folder / name).read_text())
        except (OSError, ValueError):
            return 0

    def starts(self) -> list[dict[str, Any]]:
        try:
            return [json.loads(line) for line in (self.folder / "starts").read_text().splitlines()]
        except OSError:
            return []

    def _touch(self, name: str) -> None:
        if self.unusable(name):
            raise OSError(errno.ESTALE, "Stale file handle", str(self.folder))

    def is_finished(self) -> bool:
        self._touch("is_finished")
        return self._state().get("state") == "finished"

    def _state(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.folder / "state").read_text()))
        except OSError:
            return {}

    def progress(self) -> Progress:
        self._touch("progress")
        starts = self.starts()
        return Progress(
            attempt=len(starts) or None,
            attempt_step=starts[-1]["step"] if starts else 0,
            step=self._state().get("step", 0),
            state=self._state().get("state", ""),
            saved_step=self.read("saved"),
        )

    def history(self) -> Sequence[dict[str, Any]]:
        self._touch("history")
        return self.earlier

    def wait_until_free(self, seconds: float, *, is_over: Callable[[], bool]) -> None:
        """Waits while another process holds the lock, for which a file stands."""
        self.waits.append(seconds)
        deadline = time.monotonic() + seconds
        while (self.folder / "locked").exists() and time.monotonic() < deadline and not is_over():
            time.sleep(0.01)

    @contextmanager
    def launch_config(self) -> Iterator[tuple[str, ...]]:
        self._touch("launch_config")
        script = self.folder / "rank.py"
        (self.folder / "state").unlink(missing_ok=True)
        body = textwrap.indent(textwrap.dedent(self.body), "    ").strip()
        script.write_text(RANK.replace("{body}", body).replace("{early}", self.early))
        yield (sys.executable, str(script), str(self.folder), str(self.steps))

    def rewind(self, divergence: RewindPlan) -> str:
        self._touch("rewind")
        self.rewound.append(divergence)
        (self.folder / "saved").write_text(str(divergence.checkpoint_step))
        return "rewound"

    def append_event(self, event: Mapping[str, Any]) -> None:
        json.dumps(event)
        self.events.append(dict(event))

    def record_failure(self, *, attempt: int, reason: str, rank: int | None) -> None:
        self.failures.append((attempt, reason, rank))

    def write_status(self, *, state: str, reason: str) -> None:
        self.final = state, reason

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The events of a kind."""
        return [event for event in self.events if event["event"] == kind]

    def kinds(self) -> list[EndKind]:
        return [EndKind(event["kind"]) for event in self.of("attempt_end")]


@dataclass
class FakeScheduler:
    """A scheduler that records what it is asked."""

    nodes: tuple[str, ...]
    can_requeue: bool = False
    job_id: str | None = "17"
    restart_count: int = 0
    ends_at: float | None = None
    cause: StopCause = StopCause.USER
    ending: StopCause | None = None
    requeued: RequeueResult = RequeueResult.QUEUED
    kills_at: float | None = None
    avoided: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)

    async def end_time(self) -> float | None:
        return self.ends_at

    async def why_terminated(self) -> StopCause:
        return self.cause

    async def why_ending(self) -> StopCause | None:
        return self.ending

    async def begin(self) -> None:
        self.calls.append("begin")

    async def kill_time(self) -> float | None:
        return self.kills_at

    async def requeue(self) -> RequeueResult:
        self.calls.append("requeue")
        return self.requeued

    async def release(self) -> None:
        self.calls += [] if "release" in self.calls else ["release"]

    def find_avoided(self) -> Mapping[str, str]:
        return self.avoided

    def remember_excluded(self, nodes: Sequence[str], reason: str) -> None:
        self.excluded += nodes


@dataclass
class Job:
    """A supervised job of fake ranks."""

    run: FakeRun
    starter: LocalStarter
    scheduler: FakeScheduler
    supervisor: Supervisor

    def supervise(self, *during: Callable[["Job"], Any], seconds: float = 60) -> int:
        """Runs the job; meanwhile calls functions in turn, in a thread. Returns the exit code."""

        async def run() -> int:
            job = asyncio.create_task(self.supervisor.supervise())
            for call in during:
                await asyncio.to_thread(call, self)
            return await asyncio.wait_for(job, seconds)

        return asyncio.run(run())

    def wait_for_step(self, step: int, *, starts: int = 1) -> None:
        """Waits until the run has saved a step, in its attempt of this number."""
        self.wait(lambda: self.run.read("saved") >= step and len(self.run.starts()) >= starts)

    def wait(self, true: Callable[[], bool], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.01)

    def kill_agent(self, node: str, task: int = 0) -> None:
        self.starter.agents[node, task].send_signal(signal.SIGKILL)

    def signal_rank(self, rank: int, number: signal.Signals) -> None:
        os.kill(self.run.read(f"pid-{rank}"), number)

    def pids(self) -> list[int]:
        """All processes of ranks that ever ran."""
        return [int(file.read_text()) for file in self.run.folder.glob("pid-*")]


def make_cluster(**values: Any) -> ClusterConfig:
    """A profile of plain hosts with some keys."""
    return ClusterConfig.model_validate({"scheduler": "hosts", "hosts": ["n1"], **values})


def make_launch(
    folder: Path,
    *,
    nodes: Sequence[str] = ("n1", "n2"),
    used: int | None = None,
    ranks_per_node: int = 1,
    agents_per_node: int = 1,
    steps: int = 40,
    body: str = "pass",
    early: str = "pass",
    missing: Sequence[str] = (),
    can_requeue: bool = False,
    rewinds: int = 0,
    preflight: Any = None,
    restart_delays: tuple[float, ...] = (),
    **cluster: Any,
) -> Job:
    """A job on nodes of this machine; `used` of them get ranks, the others are spares."""
    folder.mkdir(parents=True, exist_ok=True)
    world_size = (used or len(nodes)) * ranks_per_node
    run = FakeRun(folder, steps=steps, body=body, early=early)
    starter = LocalStarter(tuple(nodes), agents_per_node, tuple(missing))
    scheduler = FakeScheduler(tuple(nodes), can_requeue=can_requeue)
    settings = JobSettings(
        cluster=make_cluster(**cluster),
        ranks_per_node=ranks_per_node,
        world_size=world_size,
        world_sizes=tuple(range(world_size, 0, -1)),
        rewinds=rewinds,
        agent_connect_seconds=20,
        attempt_grace_seconds=0.5,
        restart_delays=restart_delays,
        agent_start_pause_seconds=0.1,
        files=FileRetries(limit_seconds=1.0, stopped_seconds=0.2, first_delay=0.1),
    )
    supervisor = Supervisor(settings, run, scheduler, starter, preflight)
    return Job(run, starter, scheduler, supervisor)
