"""The supervisor's connections to the agents of all nodes."""

import asyncio
import hmac
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count

from bigtrain.config.node_names import compress_names
from launcher.agent.connection import Connection
from launcher.agent.messages import (
    MAX_LINE_BYTES,
    CheckResult,
    End,
    FindPort,
    Hello,
    Message,
    MessageError,
    Ping,
    Pong,
    Port,
    SignalReceived,
)
from launcher.ports import find_free_port
from launcher.supervisor.open_files import raise_open_files

logger = logging.getLogger(__name__)

HELLO_SECONDS = 10.0
SILENT_SECONDS = 10.0
"""An agent that says nothing for this long is lost."""
CHECK_SECONDS = 1.0
END_SECONDS = 10.0
"""Limit for the end of all agents."""
PING_SECONDS = 10.0
"""Time between two measurements of an agent's clock."""
CLOCK_DRIFT = 1e-4
"""Seconds by which two clocks may drift apart in each second."""
MAX_PENDING = 64
"""Connections without a hello that may be open, in addition to one for each agent."""
BACKLOG = 4096
"""Agents that may connect at the same moment."""


@dataclass(eq=False, slots=True)
class AgentLink:
    """An agent that is connected."""

    hello: Hello
    connection: Connection
    clock_offset: float  # seconds to add to times of the agent
    last_heard: float  # on the monotonic clock
    clock_error: float = math.inf  # by how much the offset may be wrong, in seconds
    _measured: float = 0.0  # when the offset was measured, on the monotonic clock
    _pinged: float = 0.0  # when the newest ping was sent, on the monotonic clock

    @property
    def node(self) -> str:
        """The scheduler's name of its node."""
        return self.hello.node

    def send(self, message: Message) -> None:
        """Sends a message; does nothing if the connection is lost."""
        self.connection.send(message)

    def ping(self) -> None:
        """Asks for the agent's clock, unless it was asked in the last seconds."""
        now = time.monotonic()
        if now - self._pinged >= PING_SECONDS:
            self._pinged = now
            self.send(Ping(now))

    def on_pong(self, pong: Pong) -> None:
        """Corrects the offset of the clock if this answer came faster than those before.

        A busy supervisor reads answers late, and then an earlier answer is more exact.
        """
        now = time.monotonic()
        error = (now - pong.sent) / 2
        if 0 <= error <= self.clock_error + CLOCK_DRIFT * (now - self._measured):
            self.clock_error, self._measured = error, now
            self.clock_offset = time.time() - error - pong.time


@dataclass(frozen=True, slots=True)
class NodeLost:
    """The agents of a node no longer answer, or it never had any; the node is not used again."""

    node: str
    message: str
    time: float  # seconds since the epoch


AgentEvent = tuple[AgentLink, Message] | NodeLost


@dataclass(slots=True)
class Agents:
    """Accepts agents that know the token, and passes on what they report.

    The ranks that are started together are a generation, and each report names its generation.
    """

    nodes: tuple[str, ...]  # of the allocation, in order
    agents_per_node: int
    token: str
    on_signal: Callable[[str], None]  # called with the name of a signal that an agent received
    links: dict[str, dict[int, AgentLink]] = field(default_factory=dict)  # node → task → agent
    lost: dict[str, str] = field(default_factory=dict)  # node → why
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # a node came, or was lost
    _queues: "dict[int, asyncio.Queue[AgentEvent]]" = field(default_factory=dict)
    _answers: "dict[int, asyncio.Future[Message]]" = field(default_factory=dict)
    _requests: Iterator[int] = field(default_factory=lambda: count(1))
    _pending: "dict[Connection, None]" = field(default_factory=dict)  # the oldest first
    _server: asyncio.Server | None = None
    _closing: bool = False
    _watching: "asyncio.Task[None] | None" = None

    async def listen(self, hosts: Sequence[str]) -> int:
        """Starts to listen on these addresses, or on all; returns the port.

        Raises:
            OSError: The address cannot be used.
        """
        raise_open_files(2 * self._count + MAX_PENDING)
        port = find_free_port()
        self._server = await asyncio.start_server(
            self._serve, list(hosts) or None, port, limit=MAX_LINE_BYTES, backlog=BACKLOG
        )
        self._watching = asyncio.create_task(self._watch_silence())
        return port

    async def close(self, *, lets_ranks_save: bool = False) -> None:
        """Tells all agents to end, and waits until they have. Those that come later are told, too.

        Args:
            lets_ranks_save: The agents only lose the connection, as if this process had died:
                they let their ranks save.
        """
        self._closing = True
        if self._watching is not None:
            self._watching.cancel()
        await self._end_agents(lets_ranks_save=lets_ranks_save)

    @property
    def _count(self) -> int:
        return len(self.nodes) * self.agents_per_node

    async def start_again(self) -> None:
        """Ends the agents that are left, and forgets lost nodes: all agents are started anew."""
        await self._end_agents()
        self.lost.clear()

    async def _end_agents(self, *, lets_ranks_save: bool = False) -> None:
        links = self._all_links()
        for link in links if not lets_ranks_save else ():
            link.send(End())
        # Each agent closes its connection when its ranks have ended.
        deadline = time.monotonic() + END_SECONDS
        while self._all_links() and time.monotonic() < deadline and not lets_ranks_save:
            self.changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), 0.5)
        for link in links:
            link.connection.abort()

    def _all_links(self) -> list[AgentLink]:
        return [link for tasks in self.links.values() for link in tasks.values()]

    def stop_listening(self) -> None:
        """Refuses connections from now on; for when all agents have ended."""
        if self._server is not None:
            self._server.close()

    def ready(self) -> tuple[str, ...]:
        """The nodes all of whose agents are connected, in order."""
        return tuple(
            node
            for node in self.nodes
            if node not in self.lost and len(self.links.get(node, ())) == self.agents_per_node
        )

    def of_node(self, node: str) -> list[AgentLink]:
        """The agents of a node, in the order of their tasks."""
        tasks = self.links.get(node, {})
        return [tasks[task] for task in sorted(tasks)]

    def lose(self, node: str, message: str) -> None:
        """Gives a node up: its agents are told to end, and it is not used again."""
        if node in self.lost or node not in self.nodes or self._closing:
            return
        self.lost[node] = message
        for link in self.links.get(node, {}).values():
            link.send(End())
        for queue in self._queues.values():
            queue.put_nowait(NodeLost(node, message, time.time()))
        self.changed.set()

    @contextmanager
    def follow(self, generation: int) -> "Iterator[asyncio.Queue[AgentEvent]]":
        """A queue of what the agents say about a generation of ranks, and of lost nodes."""
        queue = self._queues[generation] = asyncio.Queue()
        try:
            yield queue
        finally:
            del self._queues[generation]

    async def find_port(self, link: AgentLink, *, seconds: float = 10) -> int:
        """Asks an agent for a free port of its node.

        Raises:
            TimeoutError: It does not answer.
        """
        request = self.new_request()
        answer = await self.ask(link, FindPort(request), request, seconds=seconds)
        assert isinstance(answer, Port)
        return answer.port

    async def ask(
        self, link: AgentLink, message: Message, request: int, *, seconds: float
    ) -> Message:
        """Sends a message and waits for the answer with the same request number.

        Raises:
            TimeoutError: It does not come.
        """
        answer = self._answers[request] = asyncio.get_running_loop().create_future()
        try:
            link.send(message)
            return await asyncio.wait_for(answer, seconds)
        finally:
            del self._answers[request]

    def new_request(self) -> int:
        """A number for `ask` that was not used before."""
        return next(self._requests)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        self._pending[connection] = None
        if len(self._pending) > self._count + MAX_PENDING:
            # An agent says hello at once, so the oldest of them is not an agent.
            oldest = next(iter(self._pending))
            logger.warning("connection from %s closed: too many wait", oldest.peer_address)
            del self._pending[oldest]
            oldest.abort()
        try:
            link = await self._admit(connection)
            self._pending.pop(connection, None)
            if link is not None:
                await self._read(link)
        except MessageError as error:
            logger.warning("connection from %s closed: %s", connection.peer_address, error)
        finally:
            self._pending.pop(connection, None)
            connection.abort()

    async def _admit(self, connection: Connection) -> AgentLink | None:
        """Reads the hello of a new connection; None if it is refused."""
        try:
            hello = await asyncio.wait_for(connection.receive(), HELLO_SECONDS)
        except TimeoutError:
            hello = None
        if hello is None:
            return None
        where = connection.peer_address
        if not isinstance(hello, Hello) or not _same(hello.token, self.token):
            logger.warning("connection from %s closed: it does not know the job's token", where)
            return None
        if self._closing:
            connection.send(End())
            await connection.close()
            return None
        tasks = self.links.setdefault(hello.node, {})
        if hello.node not in self.nodes or hello.node in self.lost:
            logger.warning("agent of %s refused: the node is not used", hello.node)
        elif hello.task in tasks or not 0 <= hello.task < self.agents_per_node:
            logger.warning("agent %d of %s refused: there is one", hello.task, hello.node)
        else:
            now = time.monotonic()
            link = AgentLink(hello, connection, time.time() - hello.time, now)
            tasks[hello.task] = link
            link.ping()
            self.changed.set()
            return link
        return None

    async def _read(self, link: AgentLink) -> None:
        """Puts the messages of an agent into the queue until its connection ends."""
        reason = "the connection to its agent ended"
        try:
            while (message := await link.connection.receive()) is not None:
                link.last_heard = time.monotonic()
                self._deliver(link, message)
        except MessageError as error:
            reason = f"its agent sent {error}"
            raise
        finally:
            del self.links[link.node][link.hello.task]
            self.changed.set()
            self.lose(link.node, reason)

    def _deliver(self, link: AgentLink, message: Message) -> None:
        if isinstance(message, Port | CheckResult):
            answer = self._answers.get(message.request)
            if answer is not None and not answer.done():
                answer.set_result(message)
        elif isinstance(message, Pong):
            link.on_pong(message)
        elif isinstance(message, SignalReceived):
            self.on_signal(message.name)
        elif (queue := self._queues.get(getattr(message, "generation", 0))) is not None:
            queue.put_nowait((link, message))

    async def _watch_silence(self) -> None:
        before = time.monotonic()
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            now = time.monotonic()
            # If this process was held up itself, the messages of that time are not read yet.
            held_up, before = now - before > 3 * CHECK_SECONDS, now
            for link in self._all_links():
                link.ping()
                if held_up:
                    link.last_heard = max(link.last_heard, now - SILENT_SECONDS / 2)
                elif now - link.last_heard > SILENT_SECONDS:
                    self.lose(link.node, f"its agent was silent for {SILENT_SECONDS:.0f} s")
                    link.connection.abort()


def describe_missing(agents: Agents) -> str:
    """One line about the nodes whose agents have not connected."""
    missing = [node for node in agents.nodes if node not in agents.ready()]
    return f"no agent of {compress_names(missing)}" if missing else "all agents are there"


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())
