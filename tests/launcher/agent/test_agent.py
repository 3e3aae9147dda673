"""Whose messages an agent accepts, and what happens to its ranks without a supervisor."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import launcher
from launcher.agent.connection import connect
from launcher.agent.folder import PREFIX, agent_folder
from launcher.agent.host_facts import render_hello
from launcher.agent.messages import MAX_LINE_BYTES, Hello, Ping, Pong, Start, encode_message
from launcher.ports import find_free_port
from launcher.supervisor.agents import MAX_PENDING, Agents
from tests.launcher.fake_ranks import PRELUDE, is_alive, poll

REPOSITORY = Path(launcher.__file__).parents[1]
TOKEN = "t" * 64


@pytest.fixture
def start_agent(temporary: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(port: int, *options: str, token: str = TOKEN, **more) -> subprocess.Popen[bytes]:
        words = ("--supervisor", f"127.0.0.1:{port}", "--node", "n1", "--grace-seconds", "1")
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "launcher.agent", *words, *options],
                env={**os.environ, "BIGTRAIN_JOB_TOKEN": token, "TMPDIR": str(temporary)},
                cwd=REPOSITORY,
                **{"stdin": subprocess.DEVNULL, **more},
            )
        )
        return started[-1]

    yield start
    for agent in started:
        if agent.poll() is None:
            agent.kill()
        agent.wait()
    assert not list(temporary.iterdir())


def make_agents(**options) -> Agents:
    values = {"nodes": ("n1",), "agents_per_node": 1, "token": TOKEN, "on_signal": print}
    return Agents(**{**values, **options})


async def wait_for(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        await asyncio.sleep(0.01)


def render_start(tmp_path: Path, body: str) -> Start:
    script = tmp_path / "rank.py"
    script.write_text(PRELUDE + body)
    logs = tmp_path / "logs"
    environment = {
        "RANK": "0",
        "BIGTRAIN_ERROR_FILE": str(logs / "rank-0.error.json"),
    }
    return Start(1, (sys.executable, str(script)), (environment,), str(logs))


SAVES_ON_SIGTERM = """
record_signals(signal.SIGTERM, signal.SIGUSR2)
wait_until(lambda: stops)
put("saved", stops[0])
"""


@pytest.mark.parametrize(
    "line",
    [
        encode_message(render_hello(token="wrong", node="n1", task=0)),
        encode_message(render_hello(token="", node="n1", task=0)),
        b"GET / HTTP/1.1\r\n\r\n",
        b"x" * (2 * MAX_LINE_BYTES) + b"\n",
        encode_message(render_hello(token=TOKEN, node="n7", task=0)),
        encode_message(render_hello(token=TOKEN, node="n1", task=5)),
    ],
    ids=["wrong token", "no token", "http", "long line", "unknown node", "unknown task"],
)
def test_a_connection_that_is_not_of_an_agent_of_the_job_is_closed(line: bytes) -> None:
    async def run() -> None:
        agents = make_agents()
        port = await agents.listen(["127.0.0.1"])

        def ask() -> bytes:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
                try:
                    link.sendall(line)
                    return link.recv(100)
                except ConnectionError:
                    return b""

        assert await asyncio.to_thread(ask) == b""
        assert agents.ready() == ()
        await agents.close()

    asyncio.run(run())


def test_a_second_agent_with_the_same_number_is_refused() -> None:
    async def run() -> None:
        agents = make_agents()
        port = await agents.listen(["127.0.0.1"])
        links = [await connect("127.0.0.1", port, timeout_seconds=5) for _ in range(2)]
        for link in links:
            link.send(render_hello(token=TOKEN, node="n1", task=0))
            await wait_for(lambda: agents.ready() == ("n1",))
        assert await asyncio.wait_for(links[1].receive(), 5) is None
        assert agents.ready() == ("n1",) and not agents.lost
        links[0].abort()
        await agents.close()

    asyncio.run(run())


def test_a_hello_that_is_read_late_does_not_set_the_clock_of_an_agent() -> None:
    async def run() -> None:
        agents = make_agents()
        port = await agents.listen(["127.0.0.1"])
        link = await connect("127.0.0.1", port, timeout_seconds=5)
        ahead = 100.0  # Seconds that the clock of the agent's machine is ahead.
        hello = render_hello(token=TOKEN, node="n1", task=0)
        link.send(replace(hello, time=time.time() + ahead - 0.5))
        ping = await asyncio.wait_for(link.receive(), 5)
        assert isinstance(ping, Ping)
        (agent,) = agents.of_node("n1")
        assert agent.clock_offset == pytest.approx(0.5 - ahead, abs=0.3)
        link.send(Pong(ping.sent, time.time() + ahead))
        await wait_for(lambda: agent.clock_error < 10)
        assert abs(agent.clock_offset + ahead) <= agent.clock_error + 0.01
        before = agent.clock_offset
        agent.on_pong(Pong(ping.sent - 60, time.time() + ahead))  # It came too late to tell more.
        assert agent.clock_offset == before
        link.abort()
        await agents.close()

    asyncio.run(run())


def test_an_agent_answers_with_its_clock(start_agent) -> None:
    async def run() -> None:
        agents = make_agents()
        start_agent(await agents.listen(["127.0.0.1"]))
        await wait_for(lambda: agents.ready() == ("n1",))
        (agent,) = agents.of_node("n1")
        await wait_for(lambda: agent.clock_error < 10)
        assert abs(agent.clock_offset) <= agent.clock_error + 0.01
        await agents.close()

    asyncio.run(run())


def test_strangers_that_say_nothing_keep_no_agent_out() -> None:
    async def run() -> None:
        agents = make_agents()
        port = await agents.listen(["127.0.0.1"])
        most = MAX_PENDING + 1  # One more for the only agent of the job.
        strangers = [await connect("127.0.0.1", port, timeout_seconds=5) for _ in range(most + 1)]
        assert await asyncio.wait_for(strangers[0].receive(), 5) is None
        link = await connect("127.0.0.1", port, timeout_seconds=5)
        link.send(render_hello(token=TOKEN, node="n1", task=0))
        await wait_for(lambda: agents.ready() == ("n1",))
        for each in (*strangers, link):
            each.abort()
        await agents.close()

    asyncio.run(run())


def test_an_agent_says_what_its_machine_is(start_agent) -> None:
    async def run() -> Hello:
        agents = make_agents()
        start_agent(await agents.listen(["127.0.0.1"]), "--task", "0")
        await wait_for(lambda: agents.ready() == ("n1",))
        hello = agents.of_node("n1")[0].hello
        await agents.close()
        return hello

    hello = asyncio.run(run())
    assert (hello.node, hello.host) == ("n1", socket.gethostname())
    assert hello.interfaces["lo"] == "127.0.0.1"
    assert hello.python == ".".join(map(str, sys.version_info[:3]))
    assert "bigtrain" in hello.packages and "torch" in hello.packages


def _supervisor_dies(agents: Agents, agent: subprocess.Popen[bytes]) -> None:
    agents.of_node("n1")[0].connection.abort()


def _stdin_ends(agents: Agents, agent: subprocess.Popen[bytes]) -> None:
    assert agent.stdin is not None
    agent.stdin.close()


@pytest.mark.parametrize("end", [_supervisor_dies, _stdin_ends])
@pytest.mark.parametrize("hangs", [False, True], ids=["ranks save", "ranks hang"])
def test_ranks_end_when_the_supervisor_is_gone(start_agent, tmp_path, end, hangs) -> None:
    async def run() -> subprocess.Popen[bytes]:
        agents = make_agents()
        port = await agents.listen(["127.0.0.1"])
        agent = start_agent(port, "--ends-with-stdin", stdin=subprocess.PIPE)
        await wait_for(lambda: agents.ready() == ("n1",))
        body = "hang()" if hangs else SAVES_ON_SIGTERM
        agents.of_node("n1")[0].send(render_start(tmp_path, body))
        await wait_for((tmp_path / "logs/ready-0").exists)
        end(agents, agent)
        await asyncio.to_thread(agent.wait, 20)
        await agents.close()
        return agent

    agent = asyncio.run(run())
    assert agent.returncode == 1
    assert not is_alive(int((tmp_path / "logs/ready-0").read_text()))
    assert (tmp_path / "logs/saved").exists() is not hangs


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_of_the_scheduler_is_reported_and_reaches_no_rank(
    start_agent, tmp_path, number
) -> None:
    received: list[str] = []

    async def run() -> None:
        agents = make_agents(on_signal=received.append)
        agent = start_agent(await agents.listen(["127.0.0.1"]))
        await wait_for(lambda: agents.ready() == ("n1",))
        agents.of_node("n1")[0].send(render_start(tmp_path, SAVES_ON_SIGTERM))
        await wait_for((tmp_path / "logs/ready-0").exists)
        agent.send_signal(number)
        await wait_for(lambda: received == [number.name])
        assert agent.poll() is None and not (tmp_path / "logs/saved").exists()
        await agents.close()
        assert await asyncio.to_thread(agent.wait, 20) == 0

    asyncio.run(run())


def test_a_signal_before_the_connection_is_reported_after_it(start_agent) -> None:
    received: list[str] = []

    async def run() -> None:
        port = find_free_port()
        agent = start_agent(port)
        await wait_for(lambda: _handles(agent.pid, signal.SIGTERM))
        agent.send_signal(signal.SIGTERM)
        agents = make_agents(on_signal=received.append)
        server = await asyncio.start_server(agents._serve, "127.0.0.1", port)
        await wait_for(lambda: received == ["SIGTERM"])
        server.close()
        await agents.close()
        assert await asyncio.to_thread(agent.wait, 20) == 0

    asyncio.run(run())


def _handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (caught,) = [line.split()[1] for line in lines if line.startswith("SigCgt:")]
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_ranks_of_a_killed_agent_get_sigterm_and_its_folder_is_removed_by_the_next(
    start_agent, tmp_path, temporary
) -> None:
    async def run() -> None:
        agents = make_agents()
        agent = start_agent(await agents.listen(["127.0.0.1"]))
        await wait_for(lambda: agents.ready() == ("n1",))
        agents.of_node("n1")[0].send(render_start(tmp_path, SAVES_ON_SIGTERM))
        await wait_for((tmp_path / "logs/ready-0").exists)
        agent.kill()
        await wait_for((tmp_path / "logs/saved").exists)
        assert "n1" in agents.lost
        await agents.close()

    asyncio.run(run())
    assert len(list(temporary.glob(f"{PREFIX}*"))) == 1
    with agent_folder() as folder:
        assert list(temporary.iterdir()) == [folder]


def test_folders_of_agents_that_live_are_kept(temporary) -> None:
    with agent_folder() as first, agent_folder() as second:
        assert {*temporary.iterdir()} == {first, second}
        assert first.stat().st_mode & 0o777 == 0o700
    assert not list(temporary.iterdir())


def test_agents_that_start_at_the_same_time_keep_their_folders(temporary) -> None:
    code = """
from launcher.agent.folder import agent_folder
for _ in range(100):
    with agent_folder() as folder:
        (folder / "socket").touch()
"""
    environment = dict(os.environ, PYTHONPATH=str(REPOSITORY))
    started = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(4)]
    assert [each.wait(60) for each in started] == [0] * 4
    assert not list(temporary.iterdir())


def test_an_agent_without_a_supervisor_gives_up_with_one_line(start_agent) -> None:
    agent = start_agent(9, "--connect-seconds", "0.3", stderr=subprocess.PIPE)
    _, errors = agent.communicate(timeout=20)
    assert agent.returncode == 1
    assert errors.count(b"\n") == 1 and b"network_interface" in errors


def test_an_agent_without_a_token_does_not_start(start_agent) -> None:
    agent = start_agent(9, token="", stderr=subprocess.PIPE)
    _, errors = agent.communicate(timeout=20)
    assert agent.returncode == 2 and b"BIGTRAIN_JOB_TOKEN is not set" in errors


def test_the_token_does_not_reach_the_ranks(start_agent, tmp_path) -> None:
    async def run() -> None:
        agents = make_agents()
        start_agent(await agents.listen(["127.0.0.1"]))
        await wait_for(lambda: agents.ready() == ("n1",))
        body = 'put("seen", " ".join(sorted(os.environ)))'
        agents.of_node("n1")[0].send(render_start(tmp_path, body))
        await wait_for((tmp_path / "logs/seen").exists)
        await agents.close()

    asyncio.run(run())
    names = (tmp_path / "logs/seen").read_text().split()
    assert "BIGTRAIN_HEARTBEAT_SOCKET" in names and "BIGTRAIN_JOB_TOKEN" not in names


def test_the_agent_starts_in_less_than_300_ms_of_cpu_time() -> None:
    def cpu_seconds() -> float:
        before = os.times()
        subprocess.run(
            [sys.executable, "-c", "import launcher.agent.__main__"], cwd=REPOSITORY, check=True
        )
        after = os.times()
        return (
            after.children_user
            + after.children_system
            - (before.children_user + before.children_system)
        )

    # Other processes can only make a try slower.
    assert any(cpu_seconds() < 0.3 for _ in range(3))


def test_a_rank_that_ends_leaves_no_orphan_behind(start_agent, tmp_path) -> None:
    body = """
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
put("child", child.pid)
"""

    async def run() -> None:
        agents = make_agents()
        start_agent(await agents.listen(["127.0.0.1"]))
        await wait_for(lambda: agents.ready() == ("n1",))
        agents.of_node("n1")[0].send(render_start(tmp_path, body))
        await wait_for((tmp_path / "logs/child").exists)
        child = int((tmp_path / "logs/child").read_text())
        await asyncio.to_thread(poll, lambda: not is_alive(child))
        await agents.close()

    asyncio.run(run())
