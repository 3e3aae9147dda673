"""The agent: one process on a node that starts and watches ranks for the supervisor of the job.

The agent keeps running when its ranks end, so that a restart inside the allocation needs no new
srun. If the supervisor no longer answers, the agent lets its ranks save, and ends; if the
supervisor's node is lost, the agent requeues or cancels the job. A signal of the scheduler does not
end the agent: it reports the signal, and the supervisor decides for all nodes.
"""

import asyncio
import importlib
import logging
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from launcher.agent.connection import Connection, connect
from launcher.agent.folder import agent_folder
from launcher.agent.host_facts import render_hello
from launcher.agent.messages import (
    Check,
    CheckResult,
    DumpStacks,
    End,
    FindPort,
    Message,
    MessageError,
    Ping,
    Pong,
    Port,
    Signal,
    SignalReceived,
    Start,
)
from launcher.agent.options import AgentOptions
from launcher.agent.ranks import AgentRanks
from launcher.environment import read_slurm_variable
from launcher.ports import find_free_port

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
"""Limit for one address; an address of a network that this node cannot reach may never answer."""
RETRY_SECONDS = 0.5
STOPPED_CONNECT_SECONDS = 10.0
"""After a signal, how long the agent still tries to connect, so that it can report the signal."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)


@dataclass(slots=True)
class _Agent:
    options: AgentOptions
    ranks: AgentRanks | None = None
    connection: Connection | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)  # the supervisor is gone
    early_signals: list[str] = field(default_factory=list)  # before the connection

    def send(self, message: Message) -> None:
        if self.connection is not None:
            self.connection.send(message)

    def on_signal(self, number: signal.Signals) -> None:
        if self.connection is not None:
            self.send(SignalReceived(number.name))
        elif not self.early_signals:
            asyncio.get_running_loop().call_later(STOPPED_CONNECT_SECONDS, self._give_up)
            self.early_signals.append(number.name)

    def _give_up(self) -> None:
        if self.connection is None:
            self.gone.set()

    async def serve(self) -> bool:
        """Handles messages until the end; returns whether the supervisor ended the agent."""
        assert self.connection is not None and self.ranks is not None
        while True:
            message = await self.connection.receive()
            match message:
                case None:
                    return False
                case End():
                    return True
                case Start():
                    self.ranks.start(message)
                case Signal():
                    self.ranks.send_signal(signal.Signals[message.name])
                case DumpStacks():
                    self.ranks.dump_stacks(message.generation)
                case FindPort():
                    self.send(Port(message.request, find_free_port()))
                case Ping():
                    self.send(Pong(message.sent, time.time()))
                case Check():
                    _run_check(message, self)
                case _:
                    raise MessageError(f"{type(message).__name__} is not for an agent")


async def run_agent(options: AgentOptions) -> int:
    """Serves one supervisor until the end of the job; returns the exit code."""
    loop, agent = asyncio.get_running_loop(), _Agent(options)
    for number in SIGNALS:
        loop.add_signal_handler(number, agent.on_signal, number)
    if options.ends_with_stdin:
        _watch_stdin(agent.gone)
    connecting = asyncio.create_task(_connect(options))
    if not await _completes_before(agent.gone, connecting):
        logger.error("the agent of %s was stopped before it found the supervisor", options.node)
        return 1
    agent.connection = await connecting
    if agent.connection is None:
        await _requeue_or_cancel_job(options, _on_signals())
        return 1
    agent.send(render_hello(token=options.token, node=options.node, task=options.task))
    ended = asyncio.Event()
    for name in agent.early_signals:
        agent.send(SignalReceived(name))
    with agent_folder() as folder:
        ranks = agent.ranks = AgentRanks(folder, agent.send)
        serving = asyncio.create_task(agent.serve())
        try:
            is_told_to_end = await _completes_before(agent.gone, serving) and await serving
        except MessageError as error:
            logger.error("the agent of %s: the supervisor sent %s", options.node, error)
            is_told_to_end = False
        if is_told_to_end:
            await ranks.kill()
        else:
            ended = _on_signals()
            logger.warning("%s: the supervisor is gone; the ranks save and stop", options.node)
            await ranks.stop(grace_seconds=options.grace_seconds)
        ranks.close()
    await agent.connection.close()
    if not is_told_to_end:
        await _requeue_or_cancel_job(options, ended)
    return 0 if is_told_to_end else 1


def _on_signals() -> asyncio.Event:
    """Returns an event that the next signal sets. It means that the scheduler ends the job."""
    ended = asyncio.Event()
    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    return ended


async def _requeue_or_cancel_job(options: AgentOptions, ended: asyncio.Event) -> None:
    """Requeues or cancels a job that lost its supervisor; the first agent of each node does it."""
    job = read_slurm_variable("JOB_ID")
    if job is None or options.report is None or options.restart is None or options.task:
        return
    module = importlib.import_module("launcher.slurm.abandoned_job")
    index = int(read_slurm_variable("NODEID") or 0)
    abandoned = module.AbandonedJob(job, options.restart, options.report, index)
    asking = asyncio.create_task(abandoned.requeue_or_cancel())
    if await _completes_before(ended, asking):
        logger.warning("%s: job %s: %s", options.node, job, await asking)


async def _completes_before(event: asyncio.Event, task: "asyncio.Task[Any]") -> bool:
    """Waits for a task; cancels it and returns False if the event is set first."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not task.done():
        task.cancel()
        return False
    return True


async def _connect(options: AgentOptions) -> Connection | None:
    """Tries the supervisor's addresses in turn until one answers; None if none does in time."""
    loop = asyncio.get_running_loop()
    deadline, errors = loop.time() + options.connect_seconds, dict[str, str]()
    while (left := deadline - loop.time()) > 0:
        for host, port in options.supervisors:
            try:
                return await connect(host, port, timeout_seconds=min(CONNECT_SECONDS, left))
            except OSError as error:
                errors[f"{host}:{port}"] = str(error) or type(error).__name__
        await asyncio.sleep(RETRY_SECONDS)
    tried = "; ".join(f"{where}: {error}" for where, error in errors.items())
    logger.error(
        "%s: the supervisor did not answer within %.0f s (%s). Set network_interface in the "
        "cluster profile to the interface that all nodes share",
        *(options.node, options.connect_seconds, tried),
    )
    return None


def _watch_stdin(gone: asyncio.Event) -> None:
    """Sets `gone` at the end of stdin, which comes when the ssh connection ends."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        with suppress(OSError):
            while os.read(0, 4096):
                pass
        with suppress(RuntimeError):  # The loop has been closed.
            loop.call_soon_threadsafe(gone.set)

    threading.Thread(target=read, daemon=True).start()


def _run_check(check: Check, agent: _Agent) -> None:
    """Runs a check in a thread of its own, since a disk or a file system may hang."""
    loop = asyncio.get_running_loop()

    def run() -> None:
        try:
            checks = importlib.import_module("launcher.preflight.checks")
            result = CheckResult(check.request, checks.run_checks(check.arguments))
        except Exception as error:
            result = CheckResult(check.request, {}, f"{type(error).__name__}: {error}")
        with suppress(RuntimeError):  # The loop has been closed.
            loop.call_soon_threadsafe(agent.send, result)

    threading.Thread(target=run, daemon=True).start()
