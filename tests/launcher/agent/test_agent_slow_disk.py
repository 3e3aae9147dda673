"""An agent whose disk hangs stays connected. A FIFO without a reader stands for the log."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from launcher.agent.folder import agent_folder
from launcher.agent.messages import Heartbeat, Message, RankEnded, RanksEnded, RankStacks, Start
from launcher.agent.ranks import AgentRanks
from tests.launcher.agent.test_agent import SAVES_ON_SIGTERM, render_start, wait_for
from tests.launcher.fake_ranks import PRELUDE

SECONDS = 5.0
"""The disk hangs for this time, in which there are several heartbeats."""


class Agent:
    """The ranks of an agent, and what the supervisor hears about them."""

    def __init__(self, folder: Path) -> None:
        self.heard: list[Message] = []
        self.beats: list[float] = []
        self.ranks = AgentRanks(folder, self._hear)

    def _hear(self, message: Message) -> None:
        if isinstance(message, Heartbeat):
            self.beats.append(time.monotonic())
        else:
            self.heard.append(message)

    def kinds(self) -> list[type[Message]]:
        return [type(message) for message in self.heard]

    async def hang(self, seconds: float = SECONDS) -> None:
        """Lets time pass, and checks that heartbeats go on meanwhile."""
        began = time.monotonic()
        await asyncio.sleep(seconds)
        beats = [began, *(beat for beat in self.beats if beat > began), time.monotonic()]
        assert max(after - before for before, after in pairwise(beats)) < 3


@pytest.fixture
def run(temporary: Path) -> Iterator[Callable[..., None]]:
    def run_agent(body: Callable[[Agent], object]) -> None:
        async def run() -> None:
            with agent_folder() as folder:
                agent = Agent(folder)
                await body(agent)
                assert agent.kinds()[-1] is RanksEnded
                agent.ranks.close()

        asyncio.run(run())

    yield run_agent
    assert not list(temporary.iterdir())


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """A start of rank 1, whose log cannot be opened as long as the FIFO has no reader."""
    (tmp_path / "logs").mkdir()
    os.mkfifo(tmp_path / "logs" / "rank-1.log")
    made = render_start(tmp_path, SAVES_ON_SIGTERM)
    return replace(made, environments=({**made.environments[0], "RANK": "1"},))


def _open_fifo(start: Start) -> int:
    """Lets the opening of the log succeed; the log is a file from now on."""
    log = Path(start.log_dir) / "rank-1.log"
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    log.unlink()
    log.touch()
    return reader


def test_heartbeats_go_on_while_a_log_cannot_be_opened_and_signals_wait_for_the_rank(
    run, start: Start
) -> None:
    async def body(agent: Agent) -> None:
        agent.ranks.start(start)
        agent.ranks.send_signal(signal.SIGUSR2)
        await agent.hang()
        assert agent.heard == []
        reader = _open_fifo(start)
        await wait_for(lambda: RanksEnded in agent.kinds())
        os.close(reader)
        ended, last = agent.heard
        assert isinstance(ended, RankEnded) and isinstance(last, RanksEnded)
        # The fake rank had no handler yet: the signal ended it.
        assert (ended.end.rank, ended.end.code) == (1, -signal.SIGUSR2)

    run(body)


def test_a_rank_starts_when_its_log_opens_at_last(run, start: Start) -> None:
    async def body(agent: Agent) -> None:
        agent.ranks.start(start)
        await agent.hang(1.0)
        reader = _open_fifo(start)
        await wait_for((Path(start.log_dir) / "ready-1").exists)
        agent.ranks.send_signal(signal.SIGTERM)
        await wait_for(lambda: RanksEnded in agent.kinds())
        os.close(reader)
        assert (Path(start.log_dir) / "saved").exists()
        assert agent.heard[0].end.code == 0

    run(body)


def test_ranks_that_wait_for_their_logs_can_be_killed_and_started_again(run, start: Start) -> None:
    async def body(agent: Agent) -> None:
        agent.ranks.start(start)
        await agent.hang(0.5)
        agent.ranks.dump_stacks(start.generation)
        await wait_for(lambda: RankStacks in agent.kinds())
        assert "its log is not open yet" in agent.heard.pop().text
        await agent.ranks.kill()
        assert agent.kinds() == [RanksEnded]
        agent.ranks.start(replace(start, generation=2))
        reader = _open_fifo(start)
        await wait_for((Path(start.log_dir) / "ready-1").exists)
        os.close(reader)
        await agent.ranks.stop(grace_seconds=20)
        assert agent.kinds()[1:] == [RankEnded, RanksEnded]

    run(body)


def test_heartbeats_go_on_while_the_error_of_a_rank_cannot_be_read(
    run, start: Start, tmp_path: Path
) -> None:
    (tmp_path / "rank.py").write_text(
        f"{PRELUDE}\nos.mkfifo(folder / 'rank-1.error.json')\nsys.exit(3)"
    )
    (tmp_path / "logs" / "rank-1.log").unlink()

    async def body(agent: Agent) -> None:
        agent.ranks.start(start)
        await wait_for((tmp_path / "logs" / "rank-1.error.json").exists)
        await agent.hang()
        assert agent.heard == []
        await agent.ranks.kill()
        ended, _ = agent.heard
        assert (ended.end.rank, ended.end.code, ended.end.report) == (1, 3, None)
        os.close(os.open(tmp_path / "logs" / "rank-1.error.json", os.O_WRONLY))

    run(body)
